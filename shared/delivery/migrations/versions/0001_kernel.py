"""Inbox, outbox and attempts: what every service has."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE outbox (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            event_id text NOT NULL,
            topic text NOT NULL,
            key bytea,
            headers jsonb NOT NULL,
            body bytea,
            correlationid text NOT NULL,
            causationid text,
            refs text[] NOT NULL DEFAULT '{}',
            created_at timestamptz NOT NULL DEFAULT now(),
            next_try_at timestamptz NOT NULL DEFAULT now(),
            attempts int NOT NULL DEFAULT 0,
            error text,
            sent_at timestamptz,
            dead_at timestamptz,
            partition int,
            "offset" bigint
        );
        CREATE INDEX outbox_pending ON outbox (id) WHERE sent_at IS NULL AND dead_at IS NULL;
        CREATE INDEX outbox_event ON outbox (event_id);
        CREATE INDEX outbox_correlation ON outbox (correlationid);
        CREATE INDEX outbox_refs ON outbox USING gin (refs);

        CREATE TABLE inbox (
            event_id text PRIMARY KEY,
            topic text NOT NULL,
            partition int NOT NULL,
            "offset" bigint NOT NULL,
            type text NOT NULL,
            source text NOT NULL,
            correlationid text NOT NULL,
            causationid text,
            refs text[] NOT NULL DEFAULT '{}',
            body_sha256 bytea NOT NULL,
            state text NOT NULL CHECK (state IN ('done', 'dead', 'redriven')),
            attempts int NOT NULL DEFAULT 1,
            error text,
            event_time timestamptz NOT NULL,
            recorded_at timestamptz NOT NULL,
            received_at timestamptz NOT NULL,
            handled_at timestamptz NOT NULL DEFAULT now(),
            key bytea,
            headers jsonb,
            body bytea
        );
        CREATE INDEX inbox_correlation ON inbox (correlationid);
        CREATE INDEX inbox_refs ON inbox USING gin (refs);
        CREATE INDEX inbox_dead ON inbox (handled_at) WHERE state <> 'done';

        CREATE TABLE attempts (
            key text PRIMARY KEY,
            number int NOT NULL DEFAULT 0,
            claimed_at timestamptz NOT NULL DEFAULT now(),
            cancel_reason text
        );
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE attempts; DROP TABLE inbox; DROP TABLE outbox;")
