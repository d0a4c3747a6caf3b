"""Bounded storage: what was sent and what was handled lie in daily partitions, dropped when nobody can ask again.

`outbox` becomes a queue: rows leave it for `sent` when Kafka has them, so what was not sent is never dropped. `inbox` keeps
who was handled; what died is whole in `dead_letters`. Services stop for this one migration: rows are copied, which takes
about a second for 20,000 of them. See infra/decisions, "Messages are kept in daily partitions".
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

contracts = "Services stop for this one: a table cannot become a partitioned one under those who write it (decision record)."

FOREIGN = "source NOT IN ('/data', '/trainer', '/evaluator', '/registry', '/serving', '/monitor')"

TABLES = f"""
CREATE TABLE sent (
    created_at timestamptz NOT NULL,
    sent_at timestamptz NOT NULL,
    "offset" bigint NOT NULL,
    partition int NOT NULL,
    bytes int NOT NULL,
    event_id text NOT NULL,
    topic text NOT NULL,
    correlationid text,
    causationid text,
    refs text[],
    shown jsonb
) PARTITION BY RANGE (created_at);
COMMENT ON COLUMN sent.correlationid IS 'NULL: the event began its story, which has its id';
COMMENT ON COLUMN sent.refs IS 'the ids that its payload names; NULL for events of single answers, which are not indexed';
COMMENT ON COLUMN sent.shown IS 'the declared fields of its payload; Kafka has the rest';
CREATE INDEX sent_event ON sent (event_id);
CREATE INDEX sent_time ON sent (created_at);
CREATE INDEX sent_correlation ON sent (correlationid) WHERE correlationid IS NOT NULL;
CREATE INDEX sent_topic ON sent (topic, created_at) WHERE refs IS NOT NULL;
CREATE INDEX sent_refs ON sent USING gin (refs) WHERE refs IS NOT NULL;
CREATE TABLE sent_default PARTITION OF sent DEFAULT;

CREATE TABLE inbox (
    recorded_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    "offset" bigint NOT NULL,
    body_digest bigint NOT NULL,
    day date NOT NULL,
    partition int NOT NULL,
    attempts smallint NOT NULL DEFAULT 1,
    state text NOT NULL CHECK (state IN ('done', 'dead', 'redriven')),
    event_id text NOT NULL,
    topic text NOT NULL,
    source text NOT NULL,
    correlationid text,
    causationid text,
    refs text[],
    PRIMARY KEY (event_id, topic, source, day)
) PARTITION BY RANGE (day);
COMMENT ON COLUMN inbox.day IS 'follows from the message alone, so a copy falls into the same partition';
COMMENT ON COLUMN inbox.body_digest IS 'the first 8 bytes of its SHA-256: the same id with another body is refused';
COMMENT ON COLUMN inbox.correlationid IS 'NULL: the event began its story, which has its id';
CREATE INDEX inbox_handled ON inbox (handled_at);
CREATE INDEX inbox_correlation ON inbox (correlationid) WHERE correlationid IS NOT NULL;
CREATE INDEX inbox_refs ON inbox USING gin (refs) WHERE refs IS NOT NULL;
CREATE INDEX inbox_foreign ON inbox (received_at, event_id) WHERE {FOREIGN};
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

CREATE TABLE dead_letters (
    topic text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    event_id text NOT NULL,
    source text NOT NULL,
    type text NOT NULL,
    correlationid text NOT NULL,
    causationid text,
    refs text[],
    state text NOT NULL CHECK (state IN ('dead', 'redriven')),
    attempts int NOT NULL,
    error text NOT NULL,
    event_time timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz,
    day date NOT NULL,
    key bytea,
    headers jsonb NOT NULL,
    body bytea,
    PRIMARY KEY (topic, partition, "offset")
);
COMMENT ON COLUMN dead_letters.due_at IS 'when it is handled again; only of redriven ones';
CREATE INDEX dead_letters_event ON dead_letters (event_id);
CREATE INDEX dead_letters_newest ON dead_letters (handled_at, event_id);
CREATE INDEX dead_letters_due ON dead_letters (due_at) WHERE state = 'redriven';

CREATE TABLE remembered (since date NOT NULL);
COMMENT ON TABLE remembered IS 'the low-water mark: inbox rows of earlier days were dropped; no row while none was';
"""

KEEP = """
CREATE FUNCTION keep_partitions(today date, ahead int, keep int, keep_dead int) RETURNS int LANGUAGE plpgsql AS $$
-- Makes the partitions of the coming days and drops those of more than `keep` days ago; returns how many it dropped.
-- Rows that found no partition wait in the default one, and move.
DECLARE
    parent text; place text; its_day text; child text; at date; lower text; upper text;
    oldest date := today - keep; dropped int := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7202);
    FOREACH parent IN ARRAY ARRAY['inbox', 'sent'] LOOP
        place := CASE parent WHEN 'inbox' THEN 'day' ELSE 'created_at' END;
        its_day := CASE parent WHEN 'inbox' THEN 'day' ELSE '(created_at AT TIME ZONE ''UTC'')::date' END;
        FOR at IN EXECUTE format(
            'SELECT generate_series(%1$L::date - 1, %1$L::date + %2$s, interval ''1 day'')::date '
            'UNION SELECT DISTINCT %3$s FROM %4$I WHERE %3$s BETWEEN %5$L AND %6$L',
            today, ahead, its_day, parent || '_default', oldest, today + 366
        ) LOOP
            child := parent || to_char(at, '_YYYYMMDD');
            CONTINUE WHEN to_regclass(child) IS NOT NULL;
            lower := CASE parent WHEN 'inbox' THEN at::text ELSE day_start(at)::text END;
            upper := CASE parent WHEN 'inbox' THEN (at + 1)::text ELSE day_start(at + 1)::text END;
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
            EXECUTE format(
                'WITH moved AS (DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *) '
                'INSERT INTO %5$I SELECT * FROM moved', parent || '_default', place, lower, upper, child
            );
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, lower, upper
            );
        END LOOP;
        FOR child IN
            SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = parent::regclass AND relname ~ '_[0-9]{8}$' AND right(relname, 8) < to_char(oldest, 'YYYYMMDD')
        LOOP
            EXECUTE format('DROP TABLE %I', child);
            dropped := dropped + 1;
        END LOOP;
        EXECUTE format('DELETE FROM %I WHERE %s < %L', parent || '_default', its_day, oldest);
    END LOOP;
    IF dropped > 0 THEN
        UPDATE remembered SET since = greatest(since, oldest);
        INSERT INTO remembered SELECT oldest WHERE NOT EXISTS (SELECT FROM remembered);
    END IF;
    DELETE FROM dead_letters WHERE handled_at < day_start(today - keep_dead);
    DELETE FROM outbox WHERE dead_at < day_start(today - keep_dead);
    RETURN dropped;
END $$;
"""
# A day begins at midnight in UTC, whatever the session's zone.
DAY_START = """
CREATE FUNCTION day_start(day date) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT day::timestamp AT TIME ZONE 'UTC'
$$;
"""

COPY = """
INSERT INTO sent (created_at, sent_at, "offset", partition, bytes, event_id, topic, correlationid, causationid, refs)
SELECT created_at, sent_at, "offset", partition, coalesce(octet_length(body), 0), event_id, topic,
    nullif(correlationid, event_id), causationid, refs
FROM old_outbox WHERE sent_at IS NOT NULL ORDER BY created_at;

INSERT INTO inbox (recorded_at, received_at, handled_at, "offset", body_digest, day, partition, attempts, state, event_id,
    topic, source, correlationid, causationid, refs)
SELECT recorded_at, received_at, handled_at, "offset", ('x' || encode(substring(body_sha256 FOR 8), 'hex'))::bit(64)::bigint,
    (least(greatest(event_time, recorded_at - interval '7 days'), recorded_at + interval '1 day') AT TIME ZONE 'UTC')::date,
    partition, least(attempts, 32767), state, event_id, topic, source, nullif(correlationid, event_id), causationid, refs
FROM old_inbox ORDER BY handled_at;

INSERT INTO dead_letters (topic, partition, "offset", event_id, source, type, correlationid, causationid, refs, state,
    attempts, error, event_time, recorded_at, received_at, handled_at, due_at, day, key, headers, body)
SELECT topic, partition, "offset", event_id, source, type, correlationid, causationid, refs, state, attempts,
    coalesce(error, ''), event_time, recorded_at, received_at, handled_at,
    CASE WHEN state = 'redriven' THEN now() END,
    (least(greatest(event_time, recorded_at - interval '7 days'), recorded_at + interval '1 day') AT TIME ZONE 'UTC')::date,
    key, coalesce(headers, '[]'), body
FROM old_inbox WHERE state <> 'done'
ON CONFLICT DO NOTHING;

DELETE FROM old_outbox WHERE sent_at IS NOT NULL;
"""


def upgrade() -> None:
    op.execute("ALTER TABLE inbox RENAME TO old_inbox; ALTER TABLE outbox RENAME TO old_outbox;")
    for index in ("inbox_pkey", "inbox_correlation", "inbox_refs", "inbox_handled", "inbox_foreign"):
        op.execute(f"ALTER INDEX {index} RENAME TO old_{index}")
    op.execute(TABLES)
    op.execute(DAY_START)
    op.execute(KEEP)
    op.execute(COPY)
    op.execute(
        """
        DROP TABLE old_inbox;
        ALTER TABLE old_outbox RENAME TO outbox;
        DROP INDEX outbox_pending, outbox_refs, outbox_topic, outbox_created, outbox_topic_created;
        ALTER TABLE outbox DROP COLUMN sent_at, DROP COLUMN partition, DROP COLUMN "offset", ADD COLUMN shown jsonb;
        ALTER TABLE outbox ALTER COLUMN refs DROP NOT NULL, ALTER COLUMN refs DROP DEFAULT;
        CREATE INDEX outbox_waiting ON outbox (id) WHERE dead_at IS NULL;
        CREATE INDEX outbox_created ON outbox (created_at);
        CREATE INDEX outbox_refs ON outbox USING gin (refs) WHERE refs IS NOT NULL;
        SELECT keep_partitions((now() AT TIME ZONE 'UTC')::date, 7, 100, 60);
        """
    )


def downgrade() -> None:
    raise NotImplementedError(
        "Bodies and headers of what was sent are gone: restore the backup made before the upgrade."
    )
