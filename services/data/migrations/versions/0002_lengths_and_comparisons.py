"""Lengths of a dataset's rows, what differs between two datasets, and the newest builds by one look at an index."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Builds from before were not measured: their histograms stay empty.
    op.add_column("build", sa.Column("lengths", JSONB, nullable=False, server_default="{}"))
    op.create_index("build_newest", "build", ["created_at", "id"])
    op.create_table(
        "comparison",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("against", sa.String, primary_key=True),
        sa.Column("result", JSONB, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("comparison")
    op.drop_index("build_newest")
    op.drop_column("build", "lengths")
