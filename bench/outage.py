"""`python -m bench.outage [--minutes 10] [--how gone|frozen]`: 2 chats a second while Kafka, PostgreSQL and S3 are away.

The whole platform with the small engine on a random tiny model; the outage lasts half a minute, unless told otherwise.
Prints each figure with its goal; exit code 1 where one is missed. A figure of time has no goal: the machine is shared.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from infra.base_model.tiny import make_tiny
from infra.local.settings import LocalSettings
from infra.local.stack import Stack
from tests.loop import Platform, until
from tests.outage import How, Traffic, all_kept, champion, outage

MODEL = "bench"
PER_SECOND = 2.0
CATCH_UP_SECONDS = 600


class Figure(NamedTuple):
    """One line of the table; `goal` is empty where there is none."""

    what: str
    value: str
    goal: str = ""
    met: bool = True


async def measure(platform: Platform, seconds: float, how: How) -> list[Figure]:
    await champion(platform, MODEL)
    before, traffic = Traffic(platform, MODEL, PER_SECOND), Traffic(platform, MODEL, PER_SECOND)
    await before.run(10)
    async with outage(platform, how):
        await traffic.run(seconds)
    ended = time.monotonic()
    found = await until(
        lambda: all_kept(platform, traffic), "all that was answered", CATCH_UP_SECONDS, pause=0.5
    )
    asked, twice = traffic.statuses.total(), sum(n > 1 for n in found.events.values())
    accepted = sum(count for status, count in traffic.judgements.items() if status in (200, 202))
    return [
        Figure("chats asked in the outage", f"{asked}"),
        Figure("chats failed", f"{traffic.failed}", "0", traffic.failed == 0),
        Figure("answers logged after it", f"{found.rows}", f"{asked}", found.rows == asked),
        Figure("with their text in S3", f"{found.texts}", f"{asked}", found.texts == asked),
        Figure("announced twice", f"{twice}", "0", twice == 0),
        Figure("judgements accepted", f"{accepted}", f"{asked}", accepted == asked),
        Figure("judgements kept after it", f"{found.judgements}", f"{asked}", found.judgements == asked),
        Figure("median answer before, ms", f"{statistics.median(before.seconds) * 1_000:.0f}"),
        Figure("median answer in the outage, ms", f"{statistics.median(traffic.seconds) * 1_000:.0f}"),
        Figure("all logged, seconds after its end", f"{time.monotonic() - ended:.1f}"),
    ]


async def run(stack: Stack, seconds: float, how: How) -> list[Figure]:
    platform = Platform(stack)
    try:
        return await measure(platform, seconds, how)
    finally:
        await platform.http.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.outage", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=0.5, help="how long all three are away (default 0.5)"
    )
    parser.add_argument("--how", choices=["gone", "frozen"], default="gone", help="killed, or stopped alive")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="driftwheel-outage-"))
    try:
        make_tiny(home / "tiny-model", tokenizer=LocalSettings().base_model)
        with Stack(
            home, engine="transformers", base_model=home / "tiny-model", http_port=18580, durable=False
        ) as stack:
            stack.start()
            figures = asyncio.run(run(stack, arguments.minutes * 60, arguments.how))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    table = Table(title=f"Kafka, PostgreSQL and S3 {arguments.how} for {arguments.minutes:g} minutes")
    for name in ("figure", "value", "goal", ""):
        table.add_column(name)
    for figure in figures:
        table.add_row(
            figure.what,
            figure.value,
            figure.goal,
            "" if not figure.goal else "met" if figure.met else "MISSED",
        )
    Console().print(table)
    sys.exit(0 if all(figure.met for figure in figures) else 1)


if __name__ == "__main__":
    main()
