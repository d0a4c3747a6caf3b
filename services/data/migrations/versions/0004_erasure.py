"""Prompts that no dataset may have any more, and who asked for that."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erased",
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("prompt", sa.LargeBinary, primary_key=True),
    )
    op.create_table(
        "erasure",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("subject_sha256", sa.String, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("erasure")
    op.drop_table("erased")
