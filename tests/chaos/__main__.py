"""`make chaos SEED=… MINUTES=…`: everything twice, a random fault a minute, then the history is checked.

The same seed draws the same faults. Prints a table with the goal beside each figure; exit code 1 where one is missed.
"""

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from infra.base_model.tiny import make_tiny
from infra.local.parts import parts_of
from infra.local.settings import LocalSettings
from infra.local.stack import Stack
from tests.chaos import clocks, collect
from tests.chaos.faults import all_faults, private_network
from tests.chaos.history import violations
from tests.chaos.load import MODEL, Load
from tests.loop import Platform, until

SETTLE_SECONDS = 420
WARM_UP_SECONDS = 240
MEGABYTE = 1_048_576
SHOWN = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--pause", type=float, default=60, help="seconds between two faults")
    parser.add_argument("--chats", type=float, default=2, help="chats a second")
    parser.add_argument("--replicas", type=int, default=2)
    return parser.parse_args()


def in_private_network() -> None:
    """Start again in a network namespace of its own, where root may drop packets without hurting anybody."""
    if os.geteuid() == 0 and shutil.which("unshare") and "DRIFTWHEEL_CHAOS_NETWORK" not in os.environ:
        os.environ["DRIFTWHEEL_CHAOS_NETWORK"] = "private"
        again = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
        os.execvp(
            "unshare",
            ["unshare", "--net", "--mount", "--", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *again],
        )


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class Memory:
    """Resident memory of each process that lives through a good part of the run, and how it grows."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], list[tuple[float, int]]] = {}

    async def watch(self, stack: Stack) -> None:
        while True:
            for name, part in stack.snapshot()["parts"].items():
                if part.get("pid") and psutil.pid_exists(part["pid"]):
                    size = psutil.Process(part["pid"]).memory_info().rss
                    self._seen.setdefault((name, part["pid"]), []).append((time.monotonic(), size))
            await asyncio.sleep(10)

    def slopes(self) -> dict[str, float]:
        """MB an hour, by least squares after the warm-up; of services that lived at least ten minutes after it."""
        found = {}
        for (name, _), points in self._seen.items():
            warm = [
                (at / 3_600, size / MEGABYTE) for at, size in points if at - points[0][0] > WARM_UP_SECONDS
            ]
            if len(warm) >= 60 and name not in ("kafka", "postgres", "s3", "caddy", "engine"):
                mean_x = sum(x for x, _ in warm) / len(warm)
                mean_y = sum(y for _, y in warm) / len(warm)
                spread = sum((x - mean_x) ** 2 for x, _ in warm)
                found[name] = sum((x - mean_x) * (y - mean_y) for x, y in warm) / spread
        return found


async def settled(stack: Stack) -> None:
    """Nothing is on its way any more: outboxes empty, nothing unread."""

    async def quiet() -> bool:
        try:
            return not any(collect.waiting(stack).values()) and not await collect.behind(stack)
        except Exception as error:  # noqa: BLE001 (a part may still be coming back)
            say(f"still coming back: {type(error).__name__}")
            return False

    await until(quiet, "an end of all that is on its way", SETTLE_SECONDS, pause=2)


async def run(options: argparse.Namespace, stack: Stack) -> int:
    draw = random.Random(options.seed)
    platform = Platform(stack)
    await platform.declare(MODEL, ramp={"steps": [50, 100], "min_samples": 5, "hold_seconds": 1})
    await platform.upload(MODEL)

    async def first() -> bool:
        return await platform.champion(MODEL) == 1

    await until(first, "the first champion", 300)
    load, memory = Load(platform, random.Random(options.seed + 1)), Memory()
    tasks = [asyncio.create_task(load.run(options.chats)), asyncio.create_task(memory.watch(stack))]
    faults, struck, engine_hurt = all_faults(stack), Counter[str](), list[tuple[float, float]]()
    ends = time.monotonic() + options.minutes * 60
    while time.monotonic() < ends:
        fault = draw.choice(faults)
        say(fault.name)
        began = time.time()
        try:
            await fault.strike(stack, draw)
        except Exception as error:  # noqa: BLE001 (a fault may find its part already down)
            say(f"  it did not strike: {type(error).__name__}")
        struck[fault.name] += 1
        if "engine" in fault.name:
            await asyncio.to_thread(stack.wait_ready, "engine", 120)
            engine_hurt.append((began, time.time() + 15))
        await asyncio.sleep(options.pause * draw.uniform(0.5, 1.5))
    say("healed; waiting until nothing is on its way")
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    await settled(stack)
    tasks[1].cancel()
    accepted = {
        "prediction.served": [(one,) for one in load.answered],
        "feedback.recorded": [(one,) for one in load.judged],
    }
    found = list(violations(await collect.history(stack, accepted, load.asked)))
    await platform.http.aclose()
    rules = Counter(one.rule for one in found)
    chats = [why for at, why in load.failures if not any(a <= at <= b for a, b in engine_hurt)]
    slope = max(memory.slopes().values(), default=0.0)
    for rule in rules:
        for one in [one for one in found if one.rule == rule][:SHOWN]:
            say(str(one))
    say(
        f"clients' troubles: {dict(load.failed)}; memory: { {n: round(s, 1) for n, s in memory.slopes().items()} }"
    )
    table = [
        ("faults", sum(struck.values()), "", True),
        ("kinds of faults", len(struck), "", True),
        ("chats answered", len(load.answered), "", True),
        ("feedback accepted", len(load.judged), "", True),
        ("training requests", len(load.asked), "", True),
        ("lost", rules["lost"], "0", not rules["lost"]),
        ("duplicate effects", rules["doubled"], "0", not rules["doubled"]),
        ("other violations", len(found) - rules["lost"] - rules["doubled"], "0", len(found) == rules["lost"] + rules["doubled"]),
        ("chats failed by anything but the engine", len(chats), "0", not chats),
        ("growth of memory, MB/h, worst service", round(slope, 2), "< 1", slope < 1),
    ]  # fmt: skip
    print(
        f"\nseed {options.seed}, {options.minutes:g} minutes, {options.replicas} of each, half-open connections: {'yes' if private_network() else 'no (needs root, unshare, iptables)'}"
    )
    for name, value, goal, good in table:
        print(f"  {name:42} {value!s:>10}  {'goal ' + goal if goal else '':12} {'' if good else 'MISSED'}")
    return 0 if all(good for *_, good in table) else 1


def main() -> int:
    options = arguments()
    in_private_network()
    say(f"seed {options.seed}")
    home = Path(tempfile.mkdtemp(prefix="driftwheel-chaos-"))
    try:
        make_tiny(home / "tiny-model", tokenizer=LocalSettings().base_model)
        if private_network():
            (home / "serving").mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(home / "serving")], check=False
            )
        with Stack(
            home,
            engine="transformers",
            base_model=home / "tiny-model",
            http_port=18680,
            replicas=options.replicas,
            more=clocks.parts(options.replicas),
        ) as stack:
            # One after the other: twenty processes that start at once on two cores miss their deadlines.
            for part in parts_of(options.replicas):
                stack.start(part)
            return asyncio.run(run(options, stack))
    finally:
        subprocess.run(["umount", "-q", str(home / "serving")], check=False)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
