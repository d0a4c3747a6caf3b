"""What died in this service: find it, read it, and have it handled again, one or many, under its own id.

A redrive is one statement: it marks the row in the inbox and the dead letter, and the service takes it up again itself
(redrive.py in delivery). Nothing goes through Kafka: no other service sees a copy, and a compacted topic keeps its newest.
"""

import base64
import codecs
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from shared.contracts.errors import Conflict, NotFound
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.http.keyset import Cursor, page

SHOWN_BYTES = 65_536
"""How much of a payload an answer holds."""
MOST = 10_000
"""Redriven by one call. More is another call: a transaction of this size commits in about a second."""
PLACE = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")
_IDS_SHOWN = 10
_GROUPS_SHOWN = 20
_HOW = "List them: driftwheel dlq list."

_LIST = """
SELECT event_id, topic, partition, "offset", type, source, correlationid, state, attempts, error, handled_at,
    coalesce(octet_length(body), 0) AS bytes
FROM dead_letters WHERE {where} ORDER BY handled_at DESC, event_id DESC LIMIT %(limit)s
"""
_ONE = """
SELECT event_id, state, error, attempts, topic, partition, "offset", type, source, correlationid, causationid,
    coalesce(refs, '{{}}') AS refs, event_time, recorded_at, received_at, handled_at, key, headers,
    octet_length(body) AS bytes, substring(body FOR %(shown)s) AS head
FROM dead_letters WHERE {where} ORDER BY handled_at DESC LIMIT 2
"""
_HANDLED = """
SELECT event_id, state, NULL AS error, attempts, topic, partition, "offset", topic || '.v1' AS type, source,
    coalesce(correlationid, event_id) AS correlationid, causationid, coalesce(refs, '{}') AS refs, NULL AS event_time,
    recorded_at, received_at, handled_at, NULL AS key, NULL AS headers, NULL AS bytes, NULL AS head
FROM inbox WHERE event_id = %(event_id)s ORDER BY handled_at DESC LIMIT 2
"""
_GROUPS = """
SELECT GROUPING(topic) = 0 AS of_topic, GROUPING(reason) = 0 AS of_error, topic, reason, count(*) AS messages
FROM (SELECT topic, left(error, 300) AS reason FROM dead_letters WHERE {where}) AS wanted
GROUP BY GROUPING SETS ((topic), (reason), ()) ORDER BY messages DESC, topic, reason
"""
_OLDEST = "SELECT event_id FROM dead_letters WHERE {where} ORDER BY handled_at, event_id LIMIT %(limit)s"
# Oldest first, one after the other in time: see redrive.py, which takes what is due.
_AGAIN = """
WITH chosen AS (
    SELECT topic, partition, "offset", row_number() OVER (ORDER BY handled_at, event_id) - 1 AS number
    FROM (
        SELECT topic, partition, "offset", handled_at, event_id FROM dead_letters WHERE {where}
        ORDER BY handled_at, event_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS oldest
), due AS (
    UPDATE dead_letters SET state = 'redriven', due_at = now() + number * make_interval(secs => %(pause)s)
    FROM chosen WHERE (dead_letters.topic, dead_letters.partition, dead_letters."offset")
        = (chosen.topic, chosen.partition, chosen."offset")
    RETURNING dead_letters.topic, event_id, source, day, due_at
), known AS (
    UPDATE inbox SET state = 'redriven' FROM due
    WHERE inbox.event_id = due.event_id AND inbox.topic = due.topic AND inbox.source = due.source AND inbox.day = due.day
        AND state = 'dead'
)
SELECT topic, count(*) AS messages, max(due_at) AS until FROM due GROUP BY topic ORDER BY messages DESC, topic
"""
_WAITING = "(state = 'dead' OR due_at < now() - interval '1 minute')"
"""Dead, or sent again long enough ago that somebody should look."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters; what is None matches all. `error` is any part of the reason, in either case."""

    topic: str | None = None
    error: str | None = None
    correlation: str | None = None
    source: str | None = None

    def where(self, *, dead_only: bool = True) -> tuple[str, Json]:
        """A condition on dead letters, and its parameters; of the redriven ones only those that wait for long."""
        conditions = {
            "topic": "topic = %(topic)s",
            "error": "error ILIKE %(error)s",
            "correlation": "correlationid = %(correlation)s",
            "source": "source = %(source)s",
        }
        given = {name: value for name in conditions if (value := getattr(self, name))}
        where = " AND ".join(
            ["state = 'dead'" if dead_only else _WAITING, *(conditions[name] for name in given)]
        )
        if self.error:
            given["error"] = f"%{_literal(self.error)}%"
        return where, given


async def newest(work: UnitOfWork, wanted: Wanted, after: Cursor | None, limit: int) -> Json:
    """A page of dead letters, newest first, without their bodies; with them what was redriven and waits for long."""
    where, given = wanted.where(dead_only=False)
    if after:
        where += " AND (handled_at, event_id) < (%(after_at)s, %(after_id)s)"
        given |= {"after_at": after.at, "after_id": after.id}
    rows = await _rows(work, _LIST.format(where=where), {**given, "limit": limit + 1})
    shown, following = page(rows, limit, "handled_at")
    return {"dead_letters": shown, "next": following}


async def one(work: UnitOfWork, event_id: str, *, with_payload: bool) -> Json:
    """A message that died, or the bare row of one that was handled: its headers and payload are with Kafka.

    Args:
        event_id: its own id, or its place: topic/partition/offset.

    Raises:
        NotFound: no message with this id was received here.
        Conflict: several have this id.
    """
    where, given = _named(event_id)
    dead = await _rows(work, _ONE.format(where=where), {**given, "shown": SHOWN_BYTES})
    row = _the_one(dead or await _rows(work, _HANDLED, {"event_id": event_id}))
    head, key, size = row.pop("head"), row.pop("key"), row["bytes"]
    row["key"] = readable(key, len(key)) if key is not None else None
    row["payload"] = readable(head, size) if head is not None and with_payload else None
    row["payload_needs"] = None if with_payload or head is None else "admin"
    return row


async def matching(work: UnitOfWork, wanted: Wanted, limit: int) -> Json:
    """What a redrive of these would send, by topic and by error; changes nothing."""
    where, given = wanted.where()
    groups = await _rows(work, _GROUPS.format(where=where), given)
    first = await _rows(work, _OLDEST.format(where=where), {**given, "limit": min(limit, _IDS_SHOWN)})
    total = next(g["messages"] for g in groups if not g["of_topic"] and not g["of_error"])
    by_error = [{"error": g["reason"], "messages": g["messages"]} for g in groups if g["of_error"]]
    return {
        "matching": total,
        "messages": min(total, limit),
        "by_topic": [{"topic": g["topic"], "messages": g["messages"]} for g in groups if g["of_topic"]],
        "by_error": by_error[:_GROUPS_SHOWN],
        "other_errors": sum(group["messages"] for group in by_error[_GROUPS_SHOWN:]),
        "first": [row["event_id"] for row in first],
    }


async def redrive(work: UnitOfWork, event_id: str) -> str:
    """Have a dead letter handled again; returns its topic.

    Raises:
        NotFound: no message with this id died here.
        Conflict: it was redriven before and has not died again; or several have this id.
    """
    where, given = _named(event_id)
    found = await _rows(work, _ONE.format(where=where), {**given, "shown": 0})
    found = [row for row in found if row["state"] == "dead"] or found
    row = _the_one(found or await _rows(work, _HANDLED, {"event_id": event_id}))
    where, given = _named("{topic}/{partition}/{offset}".format(**row))
    if not await _send_again(work, f"state = 'dead' AND {where}", given, limit=1, per_second=1):
        raise Conflict(
            "This event is not dead: it was handled or already redriven.", "Follow it: driftwheel trace."
        )
    return str(row["topic"])


async def redrive_many(work: UnitOfWork, wanted: Wanted, limit: int, per_second: float) -> Json:
    """Have up to `limit` dead letters handled again, the oldest first, `per_second` of them a second.

    All of them are marked by this unit of work, or none: a call that fails changed nothing, and the same call again takes
    only what died since.
    """
    where, given = wanted.where()
    sent = await _send_again(work, where, given, limit, per_second)
    until: datetime | None = max((row["until"] for row in sent), default=None)
    return {
        "messages": sum(row["messages"] for row in sent),
        "by_topic": [{"topic": row["topic"], "messages": row["messages"]} for row in sent],
        "per_second": per_second,
        "until": until,
    }


async def _send_again(
    work: UnitOfWork, where: str, given: Json, limit: int, per_second: float
) -> list[dict[str, Any]]:
    parameters = {**given, "limit": limit, "pause": 1 / per_second}
    return await _rows(work, _AGAIN.format(where=where), parameters)


def readable(data: bytes, size: int) -> Json:
    """Bytes for people: text if they are UTF-8, else base64. `data` may be the beginning of `size` bytes."""
    cut = len(data) < size
    try:
        # A cut may fall inside a character; then that character is left out.
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
        encoding = "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(data).decode(), "base64"
    return {"encoding": encoding, "text": text, "bytes": size, "cut": cut}


def _named(event_id: str) -> tuple[str, Json]:
    """A condition that finds a message by its id or by its place, which no two share."""
    if place := PLACE.fullmatch(event_id):
        given = {"event_id": event_id, "topic": place[1], "partition": int(place[2]), "offset": int(place[3])}
        return '(topic = %(topic)s AND partition = %(partition)s AND "offset" = %(offset)s)', given
    return "event_id = %(event_id)s", {"event_id": event_id}


def _the_one(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        raise NotFound("There is no dead letter with this id here.", _HOW)
    if len(rows) > 1:
        raise Conflict(
            "Several messages have this id.",
            "Name one by its place, topic/partition/offset: driftwheel dlq list.",
        )
    return rows[0]


def _literal(text: str) -> str:
    """For LIKE: what a person typed matches itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


async def _rows(work: UnitOfWork, query: str, parameters: Json) -> list[dict[str, Any]]:
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query, parameters)).fetchall()
