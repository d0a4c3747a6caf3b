"""Lists of dead letters and of events, newest first, read in the order of an index."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FOREIGN = "source NOT IN ('/data', '/trainer', '/evaluator', '/registry', '/serving', '/monitor')"


def upgrade() -> None:
    op.execute(
        f"""
        DROP INDEX inbox_dead;
        CREATE INDEX inbox_dead ON inbox (handled_at, event_id) WHERE state = 'dead';
        CREATE INDEX inbox_foreign ON inbox (received_at, event_id) WHERE {FOREIGN};
        CREATE INDEX inbox_foreign_topic ON inbox (topic, received_at, event_id) WHERE {FOREIGN};
        CREATE INDEX outbox_created ON outbox (created_at, event_id);
        CREATE INDEX outbox_topic_created ON outbox (topic, created_at, event_id);
        """
    )


def downgrade() -> None:
    op.execute(
        """
        DROP INDEX outbox_topic_created; DROP INDEX outbox_created;
        DROP INDEX inbox_foreign_topic; DROP INDEX inbox_foreign; DROP INDEX inbox_dead;
        CREATE INDEX inbox_dead ON inbox (handled_at) WHERE state <> 'done';
        """
    )
