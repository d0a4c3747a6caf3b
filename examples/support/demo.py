"""`make demo`: the whole loop on this machine, from raw rows to a model retrained by drift; exit code 0 if it closed."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from joserfc.jwk import OKPKey
from rich.console import Console
from rich.rule import Rule
from rich.status import Status
from rich.table import Table

from examples.support.door import Door, StoryFailed
from examples.support.people import People, queries
from examples.support.story import MODEL, Scale, Story, closed, tell
from infra.local.stack import Stack, StartFailed
from infra.local.state import ROOT, AlreadyRunning
from shared.http.tokens import mint

HERE = Path(__file__).parent
HOME = ROOT / ".driftwheel" / "demo"
_HOME = HOME.relative_to(ROOT)
TOKEN_SECONDS = 4 * 3_600


def main() -> int:
    console = Console(stderr=True)
    shutil.rmtree(HOME, ignore_errors=True)  # the story begins with an empty platform, each time it is told
    started = time.monotonic()
    try:
        with Stack(HOME) as stack, console.status("starting the stack") as status:
            stack.start(progress=lambda part, now: _part(console, status, part, now))
            ready = time.monotonic() - started
            console.print(f"[green]✓[/] everything is up [dim]({ready:.0f} s)[/]  {stack.urls['caddy']}")
            console.print(f"  watch it: [bold]DRIFTWHEEL_HOME={_HOME} .venv/bin/driftwheel open[/]")
            url, token = stack.urls["caddy"], _token()
            story, stages = asyncio.run(_play(console, status, url, token))
            status.stop()
            _trace(console, url, token, story.drift["id"])
            memory = {name: part["rss_bytes"] for name, part in stack.snapshot()["parts"].items()}
    except (StoryFailed, StartFailed, AlreadyRunning) as error:
        console.print(f"[bold red]The story stopped.[/] {error}")
        console.print(f"Logs: {HOME / 'logs'}   ·   driftwheel doctor")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    report = _report(story, {"stack": round(ready, 1), **stages}, memory, time.monotonic() - started)
    file = HOME / "report.json"
    file.write_text(json.dumps(report, indent=2, default=str) + "\n")
    _show(console, report, file)
    return 0 if not report["open"] else 1


def _part(console: Console, status: Status, part: str, now: dict[str, Any]) -> None:
    status.update(f"{part}: {now['state']}")
    if now["state"] == "ready":
        console.print(f"  {part:<18} ready [dim]{now['seconds']:.1f} s[/]")


def _token() -> str:
    key = OKPKey.import_key(json.loads((HOME / "secrets" / "signing-key.json").read_text()))
    return mint(key, "demo", ["admin"], TOKEN_SECONDS)


def _trace(console: Console, url: str, token: str, drift_id: str) -> None:
    """The story of the drift as any operator would ask for it, while its services still run."""
    console.print(Rule(f"driftwheel trace {drift_id}", align="left", style="cyan"))
    environment = os.environ | {"DRIFTWHEEL_URL": url, "DRIFTWHEEL_TOKEN": token}
    subprocess.run(
        [sys.executable, "-m", "services.console.cli", "trace", drift_id], env=environment, check=True
    )


async def _play(console: Console, status: Status, url: str, token: str) -> tuple[Story, dict[str, float]]:

    def say(text: str) -> None:
        status.update(text)
        if not text.startswith("…"):
            console.print(f"  {text}")

    door, people = Door(url, token, say), People(url, token, MODEL)
    try:
        story = await tell(
            door,
            people,
            yaml.safe_load((HERE / "policy.yaml").read_text()),
            HERE / "before.jsonl",
            queries(HERE / "traffic_before.jsonl"),
            queries(HERE / "traffic_after.jsonl"),
            queries(HERE / "held_out_after.jsonl"),
            Scale(),
            lambda title: console.print(Rule(title, align="left", style="cyan")),
        )
    finally:
        await door.close()
        await people.close()
    return story, door.stages


def _report(story: Story, stages: dict[str, float], memory: dict[str, int], seconds: float) -> dict[str, Any]:
    return {
        "open": closed(story),
        "seconds": round(seconds, 1),
        "base_exact_match": story.base,
        "phases": {name: tally.to_json() for name, tally in story.phases.items()},
        "stages_seconds": stages,
        "champions": [e for e in story.aliases if e["alias"] == "champion"],
        "costs": [{"run": run["id"], **(run.get("cost") or {})} for run in story.runs],
        "drift": story.drift,
        "rss_megabytes": {name: round(size / 1e6) for name, size in memory.items()},
        "trace": f"driftwheel trace {story.drift['id']}",
    }


def _show(console: Console, report: dict[str, Any], file: Path) -> None:
    quality = Table("phase", "asked", "exact match", "p50", "answered by", title="Quality")
    base = report["base_exact_match"]
    quality.add_row("base (its evaluation)", "", "-" if base is None else f"{base:.0%}", "", "base")
    for name, phase in report["phases"].items():
        versions = ", ".join(f"{v}: {n}" for v, n in phase["answers_per_version"].items())
        quality.add_row(
            name,
            str(phase["asked"]),
            f"{phase['exact_match']:.0%}",
            f"{phase['latency_p50_seconds']} s",
            versions,
        )
    champions = Table("champion", "since", "by", "why", title="Who was champion when")
    for event in report["champions"]:
        champions.add_row(
            f"{MODEL}:{event['version']}",
            str(event["at"])[:19],
            str(event["actor"]),
            str(event["reason"])[:60],
        )
    stages = Table("stage", "seconds", title="Seconds per stage")
    for name, seconds in report["stages_seconds"].items():
        stages.add_row(name, f"{seconds:.0f}")
    costs = Table("run", "device seconds", "tokens", "cost", title="Cost per run")
    for cost in report["costs"]:
        amount = f"{cost.get('amount', 0):.4f} {cost.get('currency', '')}"
        costs.add_row(
            cost["run"], f"{cost.get('device_seconds', 0):.0f}", str(cost.get("tokens", "")), amount
        )
    for table in (quality, champions, stages, costs):
        console.print(table)
    console.print("Follow the drift event again, or look at it in the browser (driftwheel open):")
    console.print(f"  DRIFTWHEEL_HOME={_HOME} make up", style="bold")
    console.print(f"  DRIFTWHEEL_HOME={_HOME} .venv/bin/{report['trace']}", style="bold", soft_wrap=True)
    console.print(f"Report: {file}")
    verdict = (
        "[bold green]The loop closed.[/]"
        if not report["open"]
        else f"[bold red]Open: {'; '.join(report['open'])}[/]"
    )
    console.print(f"{verdict}  {report['seconds']:.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
