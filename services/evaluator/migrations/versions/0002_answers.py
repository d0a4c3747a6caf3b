"""Differences and kept answers of an evaluation; lists that go on where a page ended."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("evaluation", sa.Column("differences", JSONB, nullable=False, server_default="[]"))
    op.add_column("evaluation", sa.Column("answers", JSONB, nullable=False, server_default="{}"))
    op.drop_index("evaluation_model")
    op.create_index("evaluation_model", "evaluation", ["model", "created_at", "id"])
    op.create_index("evaluation_newest", "evaluation", ["created_at", "id"])


def downgrade() -> None:
    op.drop_index("evaluation_newest")
    op.drop_index("evaluation_model")
    op.create_index("evaluation_model", "evaluation", ["model", "created_at"])
    op.drop_column("evaluation", "answers")
    op.drop_column("evaluation", "differences")
