"""What on-call people ask for: the newest events at once, and what became of each job."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE INDEX inbox_handled ON inbox (handled_at);
        CREATE INDEX outbox_topic ON outbox (topic, id);

        ALTER TABLE attempts
            ADD COLUMN job text,
            ADD COLUMN correlationid text,
            ADD COLUMN causationid text,
            ADD COLUMN deferred_at timestamptz,
            ADD COLUMN started_at timestamptz,
            ADD COLUMN ended_at timestamptz,
            ADD COLUMN outcome text CHECK (outcome IN ('done', 'failed', 'cancelled')),
            ADD COLUMN error text;
        CREATE INDEX attempts_correlation ON attempts (correlationid);
        """
    )


def downgrade() -> None:
    op.execute(
        """
        DROP INDEX inbox_handled;
        DROP INDEX outbox_topic;
        DROP INDEX attempts_correlation;
        ALTER TABLE attempts DROP COLUMN job, DROP COLUMN correlationid, DROP COLUMN causationid,
            DROP COLUMN deferred_at, DROP COLUMN started_at, DROP COLUMN ended_at, DROP COLUMN outcome,
            DROP COLUMN error;
        """
    )
