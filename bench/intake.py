"""`python -m bench.intake [--records N] [--seed S]`: what a stranger's record can cost or break.

Two parts: hostile records of a megabyte, with the CPU that each takes from the fetched bytes to "read, or dead and why";
then fuzzed record batches, by the million. Prints a table with the goal beside each figure and the seed; exits 1 where
a goal is missed. No server is needed.
"""

import argparse
import functools
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import structlog
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.structs import TopicPartition
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from shared.contracts.errors import Poison
from shared.contracts.events import EVENTS
from shared.contracts.strict_json import MAX_VALUES
from shared.delivery.intake import describe, take, unread
from shared.delivery.outbox import pack_headers
from shared.delivery.records import Records
from tests.records import CODECS, Raw, batch

MEGABYTE = 1_000_000
GOAL_MS = 20.0
TOPICS = [event.topic for event in EVENTS]
CE = {"content-type": b"application/cloudevents+json"}
VALUES = MAX_VALUES - 10


def filled(unit: bytes, before: bytes = b"[", after: bytes = b"0]") -> bytes:
    return before + unit * ((MEGABYTE - len(before) - len(after)) // len(unit)) + after


def padded(unit: bytes, count: int, before: bytes = b"[", after: bytes = b"]") -> bytes:
    """As many values as a body may have, and what is left is a string of escapes."""
    begun = before + unit * count
    left = MEGABYTE - len(begun) - len(after) - 2
    return begun + b'"' + b"\\n" * (left // 2) + b'"' + after


def feedback(extra: bytes) -> bytes:
    return b'{"feedback_id":"f","answer_id":"a","model":"support","score":1,"actor":"a",' + extra + b"}"


BODIES: dict[str, bytes] = {
    "opening brackets": b"[" * MEGABYTE,
    "nested objects": filled(b'{"":', b"", b""),
    "empty lists": filled(b"[],"),
    "empty texts": filled(b'"",'),
    "quotes": b'"' * MEGABYTE,
    "backslashes": b"\\" * MEGABYTE,
    "escaped quotes, never closed": filled(b'\\"', b"[" * 65 + b'"', b""),
    "escaped quotes": filled(b'\\"', b'["', b'"]'),
    "escapes": filled(b"\\n", b'["', b'"]'),
    "surrogates": filled(b"\\ud800", b'["', b'"]'),
    "digits": b"1" * MEGABYTE,
    "numbers of 309 digits": filled(b"1" * 309 + b","),
    "hard floats": filled(b"1.2345678901234567e-300,"),
    "one key again and again": filled(b'"a":1,', b"{", b'"a":1}'),
    "not UTF-8": b"\xff" * MEGABYTE,
    "spaces": b" " * MEGABYTE,
    "four-byte characters": b'["' + "😀".encode() * (MEGABYTE // 4 - 1) + b'"]',
    "most numbers": padded(b"1,", VALUES),
    "most floats": padded(b"1.2345678901234567e-300,", VALUES),
    "most objects": padded(b'{"":0},', VALUES // 2),
    "most lists": padded(b"[],", VALUES // 2),
    "event with a text of a megabyte": feedback(b'"corrected":"' + b"x" * (MEGABYTE - 200) + b'"'),
    "event with unknown keys": feedback(b",".join(b'"k%d":"v"' % n for n in range(VALUES - 20))),
    "request with wrong files": b'{"model":"m","idempotency_key":"i","files":['
    + b"{}," * (VALUES // 2)
    + b"0]}",
    "dataset with wrong counts": b'{"rows":{'
    + b",".join(b'"r%d":"x"' % n for n in range(VALUES - 20))
    + b"}}",
}


def hostile() -> Iterator[tuple[str, str, bytes]]:
    """Name, topic and raw batch of each record of about a megabyte."""
    for name, body in BODIES.items():
        topic = next(
            (t for t in ("dataset.ready", "training.requested") if t[:7] == name[:7]), "feedback.recorded"
        )
        topic = "training.requested" if name.startswith("request") else topic
        yield name, topic, batch([Raw(body)])
    yield (
        "structured event",
        "feedback.recorded",
        batch(
            [
                Raw(
                    b'{"id":"1","data":' + padded(b"1,", VALUES - 10) + b"}",
                    None,
                    [(b"content-type", CE["content-type"])],
                )
            ]
        ),
    )
    yield "header flood", "feedback.recorded", batch([Raw(b"{}", None, [(b"", None)] * 480_000)])
    yield "one huge header", "feedback.recorded", batch([Raw(b"{}", None, [(b"ce_id", b"\xff" * MEGABYTE)])])
    yield "one huge header name", "feedback.recorded", batch([Raw(b"{}", None, [(b"\xff" * MEGABYTE, b"")])])
    yield "huge key", "feedback.recorded", batch([Raw(b"{}", b"k" * MEGABYTE)])
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        swelling = batch([Raw(bytes(20 * MEGABYTE))], codec)
        yield f"{codec} that swells", "feedback.recorded", swelling


def fate(topic: str, raw: bytes) -> list[str]:
    """What becomes of each record of a batch, by the way that a consumer goes."""
    found = []
    partition = PartitionRecords(TopicPartition(topic, 0), Records(raw), [], 0, None, None, True, 0)
    for record in partition:
        blank = unread(record)
        try:
            take(record, blank.received_at)
            found.append("read")
        except (Poison, ValidationError) as error:
            describe(error)
            _ = blank.body_digest, blank.day
            pack_headers(blank.headers)
            found.append("dead")
    return found


def cpu_ms(work: Callable[[], Any]) -> float:
    spent = []
    for _ in range(5):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent) * 1_000


def noise(rng: random.Random, most: int) -> bytes:
    return rng.choice((rng.randbytes, lambda n: bytes(rng.choice(b'{}[]",:\\0e-u ') for _ in range(n))))(
        rng.randrange(most)
    )


def mangled(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(rng.randint(0, 3)):
        data[rng.randrange(len(data)) : rng.randrange(len(data))] = noise(rng, 6)
        data = data or bytearray(b"x")
    return bytes(data)


def fuzzed(rng: random.Random) -> Raw:
    value = rng.choice((None, noise(rng, 60), mangled(rng, feedback(b'"x":1')), b"[" * rng.randrange(100)))
    names = (
        b"ce_id",
        b"ce_type",
        b"ce_time",
        b"ce_source",
        b"content-type",
        b"\xff",
        b"ce_\x00",
        b"ce_traceparent",
    )
    contents = (
        None,
        b"\xff\x00",
        CE["content-type"],
        b"9999-12-31T23:59:59-14:00",
        b"feedback.recorded.v1",
        b"a" * 600,
    )
    headers = [
        (rng.choice((*names, noise(rng, 8))), rng.choice((*contents, noise(rng, 20))))
        for _ in range(rng.randrange(6))
    ]
    when = rng.choice((0, -1, 1_750_000_000_000, -(10**15), 10**15, rng.randrange(-(2**62), 2**62)))
    return Raw(value, rng.choice((None, b"", noise(rng, 20))), headers, when)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.intake", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="fuzzed records (default 1,000,000)")
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="of the fuzzed records")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    table = Table("what", "figure", "goal", "")
    missed = 0

    def row(what: str, figure: str, goal: str, kept: bool) -> None:
        nonlocal missed
        missed += not kept
        table.add_row(what, figure, goal, "ok" if kept else "MISSED")

    fate("feedback.recorded", batch([Raw(b"warm up")], "zstd"))
    for name, topic, raw in hostile():
        ms = cpu_ms(functools.partial(fate, topic, raw))
        row(f"CPU of {name}", f"{ms:.1f} ms", f"≤ {GOAL_MS:.0f} ms", ms <= GOAL_MS)
    rng = random.Random(given.seed)
    sent = read = lost = raised = 0
    began, slowest = time.process_time(), 0.0
    while sent < given.records:
        size = min(rng.randint(1, 200), given.records - sent)
        raw = batch([fuzzed(rng) for _ in range(size)], rng.choice(list(CODECS)))
        started = time.process_time()
        try:
            found = fate(rng.choice(TOPICS), raw)
            read, lost = read + found.count("read"), lost + size - len(found)
        except Exception as error:  # noqa: BLE001 (that is what is counted)
            raised += 1
            Console(stderr=True).print(f"seed {given.seed}: {type(error).__name__} {error}")
        slowest = max(slowest, (time.process_time() - started) * 1_000 / size)
        sent += size
    spent = time.process_time() - began
    row(f"raised, of {sent:,} fuzzed records", str(raised), "0", raised == 0)
    row("neither read nor dead", str(lost), "0", lost == 0)
    row("CPU per record of the slowest batch", f"{slowest:.1f} ms", f"≤ {GOAL_MS:.0f} ms", slowest <= GOAL_MS)
    table.add_row("read as events", f"{read:,}", "", "")
    table.add_row("CPU in all, the making of records included", f"{spent:.0f} s", "", "")
    Console().print(table, f"seed {given.seed}, {datetime.now(UTC):%Y-%m-%d}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
