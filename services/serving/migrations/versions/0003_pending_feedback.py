"""Judgements that wait for their answer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "pending_feedback",
        sa.Column("feedback_id", sa.String(), primary_key=True),
        sa.Column("answer_id", sa.String(), nullable=False, index=True),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("corrected", sa.String()),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("cause", sa.JSON(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, index=True),
    )


def downgrade() -> None:
    op.drop_table("pending_feedback")
