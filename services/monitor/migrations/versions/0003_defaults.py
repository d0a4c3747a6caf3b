"""Columns that came later keep their default: a release that does not know them still inserts rows."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE feedback ALTER COLUMN corrected SET DEFAULT false")
    op.execute('ALTER TABLE "window" ALTER COLUMN corrected SET DEFAULT 0')


def downgrade() -> None:
    op.execute('ALTER TABLE "window" ALTER COLUMN corrected DROP DEFAULT')
    op.execute("ALTER TABLE feedback ALTER COLUMN corrected DROP DEFAULT")
