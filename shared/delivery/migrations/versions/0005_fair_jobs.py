"""Jobs take turns by model, and remember what went wrong since they last got anywhere."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE attempts
            ADD COLUMN model text,
            ADD COLUMN crashes int NOT NULL DEFAULT 0,
            ADD COLUMN retries int NOT NULL DEFAULT 0;
        """
    )
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS attempts_served")
        op.execute("CREATE INDEX CONCURRENTLY attempts_served ON attempts (model, claimed_at)")


def downgrade() -> None:
    op.execute(
        """
        DROP INDEX attempts_served;
        ALTER TABLE attempts DROP COLUMN model, DROP COLUMN crashes, DROP COLUMN retries;
        """
    )
