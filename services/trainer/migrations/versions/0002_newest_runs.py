"""A page of the newest runs of all models is one look at an index."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("run_newest", "run", ["created_at", "id"])


def downgrade() -> None:
    op.drop_index("run_newest")
