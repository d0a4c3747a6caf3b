"""Corrections by reference: their texts are in the object store."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # `corrected` stays for the release before this one; nothing is written there any more.
    op.add_column("feedback", sa.Column("correction", JSONB))


def downgrade() -> None:
    op.drop_column("feedback", "correction")
