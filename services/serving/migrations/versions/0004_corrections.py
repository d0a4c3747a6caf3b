"""Corrections by reference: their texts are in the object store. And what a waiting judgement's author may judge."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # `corrected` stays for the release before this one; nothing is written there any more.
    op.add_column("feedback", sa.Column("correction", JSONB))
    op.add_column("pending_feedback", sa.Column("correction", JSONB))
    op.add_column("pending_feedback", sa.Column("models", JSONB))


def downgrade() -> None:
    op.drop_column("pending_feedback", "models")
    op.drop_column("pending_feedback", "correction")
    op.drop_column("feedback", "correction")
