"""Reference of what people and machines touch: routes, commands, metrics, alerts."""

import importlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client.metrics
import typer
import yaml
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from joserfc.jwk import OKPKey
from safetensors.numpy import save_file

from infra import prometheus
from infra.docs.markdown import code, first_paragraph, prose, table
from services.console.cli import app as console_command
from services.console.door import Exit
from shared.artifacts.base_model import write_manifest
from shared.contracts.topology import SERVICES
from shared.http.minting import SCOPES
from shared.service.runtime import PUBLIC_PATHS

SPACE = " \n\b"
"""What may stand around the text of a command: \b keeps the line after it whole in a terminal."""
MEASURED = ("shared.telemetry.metrics", "trainer.metrics", "trainer.answers", "data.metrics", "monitor.telemetry",
            "serving.metrics")  # fmt: skip
"""Modules that declare metrics; a test holds this against the code."""
_MEANS = {
    Exit.GATE: "a gate said no",
    Exit.UNAVAILABLE: "a part does not answer",
    Exit.PIPE: "nobody reads the pipe on",
}
_AT_THE_DOOR = re.compile(r"/v1(/|$)")


def assembled(folder: Path, key: OKPKey) -> dict[str, FastAPI]:
    """Every service as it runs; nothing is started, so nothing is connected to.

    Args:
        folder: for the key set and a base model.
        key: signs the tokens that are accepted.
    """
    (folder / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    base = folder / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (base / name).write_text("{}")
    weights = {"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 4), np.float32)}
    save_file(weights, base / "model.safetensors")
    write_manifest(base, {})
    told = {"database_url": "postgresql://nobody@127.0.0.1:9/none", "auth_jwks_file": folder / "jwks.json", "base_model": base,
            "state_folder": folder / "state", "adapter_cache": folder / "adapters"}  # fmt: skip
    made = {}
    for service in SERVICES:
        settings = importlib.import_module(f"services.{service}.settings").Settings
        own = {name: value for name, value in told.items() if name in settings.model_fields}
        made[service] = importlib.import_module(f"services.{service}.app").create_app(settings(**own))
    return made


def routes() -> str:
    """Every route at the front door, the scope it demands, and what it is for."""
    key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "Ed25519"}, auto_kid=True)
    with tempfile.TemporaryDirectory() as folder:
        apps = assembled(Path(folder), key)
        parts = [
            "# HTTP API",
            "",
            "As called at the front door. `/v1` is OpenAI's interface, with its shapes of errors; everything else answers errors as RFC 9457 "
            "problem details. A call needs a bearer token with the scope named here, or `admin`; `driftwheel token` makes one. "
            f"Without a token answer only {', '.join(code(path) for path in PUBLIC_PATHS)} of each service, of which `/metrics` does not pass "
            "the front door. Bodies and answers in full: `/api/<service>/openapi.json`.",
            "",
        ]
        common = set.intersection(*({(m, p) for m, p, *_ in _routes(app)} for app in apps.values()))
        first = next(iter(apps.values()))
        parts += ["## Of every service", "", "Below `/api/<service>`.", ""]
        parts.append(_route_table((m, p, s, w) for m, p, s, w in _routes(first) if (m, p) in common))
        for service, app in apps.items():
            rows = (
                (m, p if _AT_THE_DOOR.match(p) else f"/api/{service}{p}", s, w)
                for m, p, s, w in _routes(app)
                if (m, p) not in common
            )
            parts += [f"## {service}", "", _route_table(rows)]
    return "\n".join(parts)


def _route_table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    found = sorted(rows, key=lambda row: (row[1], row[0]))
    return table(("Route", "Scope", "What it does"), ((code(f"{m} {p}"), code(s), w) for m, p, s, w in found))


def _routes(app: FastAPI) -> Iterator[tuple[str, str, str, str]]:
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute):
            what = prose(first_paragraph(route.description) or route.summary or route.name.replace("_", " "))
            scopes = " ".join(sorted(_scopes(route.dependant)))
            yield from ((method, str(context.path), scopes, what) for method in sorted(context.methods or ()))


def _scopes(dependant: Dependant) -> set[str]:
    own = {str(getattr(dependant.call, "scope", None))} & SCOPES
    return own.union(*map(_scopes, dependant.dependencies))


def commands() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Command line",
        "",
        "`driftwheel <noun> <verb>`: data on stdout, progress on stderr. `--json` on every command that shows something.",
        "",
        "## Exit codes",
        "",
        table(
            ("Code", "Means"),
            ((str(int(one)), _MEANS.get(one, one.name.lower().replace("_", " "))) for one in Exit),
        ),
        "## Variables",
        "",
        table(
            ("Variable", "Meaning"),
            (
                ("`DRIFTWHEEL_URL`", "The front door; unset: that of the stack on this machine."),
                (
                    "`DRIFTWHEEL_TOKEN`",
                    "The token to call with; unset: one made with this installation's key.",
                ),
                ("`DRIFTWHEEL_HOME`", "The folder of the stack on this machine."),
                ("`DRIFTWHEEL_DEBUG`", "Set: what nobody foresaw ends with its traceback."),
            ),
        ),
    ]
    root = typer.main.get_command(console_command)
    parts += [part for words, command in leaves(root) for part in _command(words, command)]
    return "\n".join(parts)


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that name it."""
    context = typer.Context(command)
    verbs = command.list_commands(context) if hasattr(command, "list_commands") else []
    if not verbs or command.invoke_without_command:
        yield words, command
    for verb in verbs:
        yield from leaves(command.get_command(context, verb), (*words, verb))


def _command(words: tuple[str, ...], command: Any) -> Iterator[str]:
    yield f"## {' '.join(('driftwheel', *words))}\n"
    said, _, example = (command.help or "").partition("Example:")
    yield f"{prose(said.strip(SPACE))}\n"
    rows = [found for one in command.params if (found := one.get_help_record(typer.Context(command)))]
    if rows:
        yield table(("Parameter", "Meaning"), ((code(name), prose(meaning)) for name, meaning in rows))
    if example:
        yield f"```sh\n{example.strip()}\n```\n"


def metrics() -> str:
    """Every metric of ours."""
    parts = [
        "# Metrics",
        "",
        "Prometheus reads them at `/metrics` of each process, behind the front door. `infra/prometheus/prometheus.yml` scrapes them, "
        "`infra/grafana/driftwheel.json` draws them. Counters end in `_total`, histograms have `_bucket`, `_sum` and `_count`.",
        "",
    ]
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    for name in MEASURED:
        module = importlib.import_module(name if name.startswith("shared.") else f"services.{name}")
        title = "every service" if name.startswith("shared.") else name.partition(".")[0]
        found.setdefault(title, []).extend(_metrics(module))
    for title, rows in found.items():
        parts += [f"## {title}", "", table(("Metric", "Kind", "Labels", "Meaning"), rows)]
    return "\n".join(parts)


def _metrics(module: Any) -> Iterator[tuple[str, str, str, str]]:
    for one in vars(module).values():
        if isinstance(one, prometheus_client.metrics.MetricWrapperBase):
            family = next(iter(one.describe()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = " ".join(code(label) for label in one._labelnames)
            yield code(name), family.type, labels, prose(family.documentation)


def alerts() -> str:
    """Every alert, how bad it is, and its runbook."""
    parts = [
        "# Alerts",
        "",
        "The rules are `infra/prometheus/alerts.yml`. *page* wakes somebody, *ticket* waits for the morning. The name leads to the runbook.",
        "",
    ]
    for group in yaml.safe_load(prometheus.ALERTS.read_text())["groups"]:
        rows = (
            (
                f"[{rule['alert']}](../{rule['annotations']['runbook_url']})",
                rule["labels"]["severity"],
                str(rule.get("for", "at once")),
                _told(rule["annotations"]["description"]),
            )
            for rule in group["rules"]
        )
        parts += [f"## {group['name']}", "", table(("Alert", "Severity", "After", "Means"), rows)]
    return "\n".join(parts)


def _told(text: str) -> str:
    """The template of an annotation as a sentence: labels by their names."""
    text = re.sub(r"\{\{\s*\$labels\.(\w+)\s*\}\}", r"*\1*", text)
    return re.sub(r"\{\{\s*\$value[^}]*\}\}", "*N*", text)
