"""Whose question an answer was, so that it can be erased; and what was erased."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("prediction", sa.Column("subject_sha256", sa.String()))
    op.add_column("prediction", sa.Column("user_sha256", sa.String()))
    op.create_table(
        "erasure",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("subject_sha256", sa.String(), nullable=False),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("corrections", sa.Integer(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("erasure")
    op.drop_column("prediction", "user_sha256")
    op.drop_column("prediction", "subject_sha256")
