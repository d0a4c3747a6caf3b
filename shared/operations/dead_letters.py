"""What died in this service: find it, read it, and send it again, one or many, under its own id.

A redrive is one statement: the inbox row turns from `dead` to `redriven` and the message goes into the outbox, or
neither. Handling it turns the row to `done`. Services that handled the event before skip the copy by its id.
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
SELECT event_id, topic, partition, "offset", type, source, correlationid, attempts, error, handled_at,
    coalesce(octet_length(body), 0) AS bytes
FROM inbox WHERE {where} ORDER BY handled_at DESC, event_id DESC LIMIT %(limit)s
"""
_ONE = """
SELECT event_id, state, error, attempts, topic, partition, "offset", type, source, correlationid, causationid, refs,
    event_time, recorded_at, received_at, handled_at, key, headers, octet_length(body) AS bytes,
    substring(body FOR %(shown)s) AS head
FROM inbox WHERE {where} ORDER BY handled_at DESC LIMIT 2
"""
_GROUPS = """
SELECT GROUPING(topic) = 0 AS of_topic, GROUPING(reason) = 0 AS of_error, topic, reason, count(*) AS messages
FROM (SELECT topic, left(error, 300) AS reason FROM inbox WHERE {where}) AS wanted
GROUP BY GROUPING SETS ((topic), (reason), ()) ORDER BY messages DESC, topic, reason
"""
_OLDEST = "SELECT event_id FROM inbox WHERE {where} ORDER BY handled_at, event_id LIMIT %(limit)s"
# Oldest first, one after the other in time: the relay takes what is due. A message without an id of its own (a foreign
# one) gets its inbox id as a header: without one the copy would be a new event.
_SEND_AGAIN = """
WITH chosen AS (
    SELECT event_id, topic, source, handled_at FROM inbox WHERE {where}
    ORDER BY handled_at, event_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), placed AS (
    SELECT event_id, topic, source, row_number() OVER (ORDER BY handled_at, event_id) - 1 AS place FROM chosen
), taken AS (
    UPDATE inbox SET state = 'redriven' FROM placed
    WHERE inbox.event_id = placed.event_id AND inbox.topic = placed.topic AND inbox.source = placed.source
    RETURNING inbox.event_id, inbox.topic, inbox.source, key, headers, body, correlationid, causationid, refs, place
), sent AS (
    INSERT INTO outbox (event_id, topic, key, headers, body, correlationid, causationid, refs, next_try_at)
    SELECT event_id, topic, key,
        coalesce((
            SELECT jsonb_agg(header ORDER BY at) FROM jsonb_array_elements(headers) WITH ORDINALITY AS each (header, at)
            WHERE header ->> 0 <> 'ce_redrivenat'
        ), '[]')
        || CASE WHEN EXISTS (SELECT FROM jsonb_array_elements(headers) AS header WHERE header ->> 0 = 'ce_id')
            THEN '[]' ELSE jsonb_build_array(jsonb_build_array('ce_id', event_id)) END
        || CASE WHEN source = '/unreadable' THEN jsonb_build_array(jsonb_build_array('ce_source', source)) ELSE '[]' END
        || jsonb_build_array(jsonb_build_array('ce_redrivenat', now())),
        body, correlationid, causationid, refs, now() + place * make_interval(secs => %(pause)s)
    FROM taken ORDER BY place
    RETURNING topic, next_try_at
)
SELECT topic, count(*) AS messages, max(next_try_at) AS until FROM sent GROUP BY topic ORDER BY messages DESC, topic
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters; what is None matches all. `error` is any part of the reason, in either case."""

    topic: str | None = None
    error: str | None = None
    correlation: str | None = None
    source: str | None = None

    def where(self) -> tuple[str, Json]:
        """A condition on inbox rows, and its parameters."""
        conditions = {
            "topic": "topic = %(topic)s",
            "error": "error ILIKE %(error)s",
            "correlation": "correlationid = %(correlation)s",
            "source": "source = %(source)s",
        }
        given = {name: value for name in conditions if (value := getattr(self, name))}
        where = " AND ".join(["state = 'dead'", *(conditions[name] for name in given)])
        if self.error:
            given["error"] = f"%{_literal(self.error)}%"
        return where, given


async def newest(work: UnitOfWork, wanted: Wanted, after: Cursor | None, limit: int) -> Json:
    """A page of dead letters, newest first, without their bodies."""
    where, given = wanted.where()
    if after:
        where += " AND (handled_at, event_id) < (%(after_at)s, %(after_id)s)"
        given |= {"after_at": after.at, "after_id": after.id}
    rows = await _rows(work, _LIST.format(where=where), {**given, "limit": limit + 1})
    shown, following = page(rows, limit, "handled_at")
    return {"dead_letters": shown, "next": following}


async def one(work: UnitOfWork, event_id: str, *, with_payload: bool) -> Json:
    """A message of the inbox, in any state; key, headers and payload are kept until it is handled.

    Args:
        event_id: its own id, or its place: topic/partition/offset.

    Raises:
        NotFound: no message with this id was received here.
        Conflict: several have this id.
    """
    where, given = _named(event_id)
    row = _the_one(await _rows(work, _ONE.format(where=where), {**given, "shown": SHOWN_BYTES}))
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
    """Send a dead letter to its topic again; returns the topic.

    Raises:
        NotFound: no message with this id died here.
        Conflict: it was redriven before and has not died again; or several have this id.
    """
    where, given = _named(event_id)
    found = _the_one(await _rows(work, _ONE.format(where=where), {**given, "shown": 0}))
    where, given = _named("{topic}/{partition}/{offset}".format(**found))
    sent = await _send_again(work, f"state = 'dead' AND {where}", given, limit=1, per_second=1)
    if not sent:
        raise Conflict(
            "This event is not dead: it was handled or already redriven.", "Follow it: driftwheel trace."
        )
    return str(sent[0]["topic"])


async def redrive_many(work: UnitOfWork, wanted: Wanted, limit: int, per_second: float) -> Json:
    """Send up to `limit` dead letters again, the oldest first, `per_second` of them a second.

    All of them are marked and put into the outbox by this unit of work, or none: a call that fails changed nothing, and
    the same call again sends only what died since.
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
    sent = await _rows(work, _SEND_AGAIN.format(where=where), parameters)
    if sent:
        await _rows(work, "SELECT pg_notify('outbox', '')", {})
    return sent


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
