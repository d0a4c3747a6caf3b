"""Reference of what is declared in code by types: the policy, settings, and events."""

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from infra.docs.markdown import WORDS, code, fields, first_paragraph, prose, table
from infra.kafka.settings import AdminSettings
from infra.kafka.topics import BUSY, PARTITIONS, RETENTION_DAYS, dead_letters_of
from infra.local.settings import LocalSettings
from shared.contracts import topology
from shared.contracts.events import EVENTS, STATE, Event
from shared.contracts.policy import Policy
from shared.contracts.topology import CONSUMERS, PRODUCERS

_HEAD = ("Field", "Type", "Default", "Meaning")
SERVICES = (*topology.SERVICES, "console")


def policy() -> str:
    """Every key of a policy."""
    schema = Policy.model_json_schema()
    return "\n".join(
        (
            "# Policy",
            "",
            f"{first_paragraph(Policy.__doc__)} What is left out has its default; an unknown key or a value out of range is "
            "refused with its path. `driftwheel apply FILE` declares it. Shares are fractions from 0 to 1, durations are "
            "seconds.",
            "",
            table(_HEAD, fields(schema)),
            *_definitions(schema),
        )
    )


def _definitions(schema: Mapping[str, Any], level: str = "##") -> Iterator[str]:
    for name, inner in schema.get("$defs", {}).items():
        yield f"{level} {name}\n"
        yield f"{prose(first_paragraph(inner.get('description')))}\n"
        yield table(_HEAD, fields(inner))


def settings() -> str:
    """Every setting: of the embedded stack, of what services have in common, of each service."""
    parts = [
        "# Settings",
        "",
        "A setting is an environment variable. Those of a service are `DRIFTWHEEL_<SERVICE>__<FIELD>`, such as "
        "`DRIFTWHEEL_TRAINER__THREADS`; a misspelt one refuses to start. Those of the embedded stack are `DRIFTWHEEL_<FIELD>`. "
        "Lists and objects are written as JSON.",
        "",
        "## The embedded stack",
        "",
        "Prefix `DRIFTWHEEL_`. An address given here replaces the part that it names.",
        "",
        _variables(LocalSettings, set(LocalSettings.model_fields), "DRIFTWHEEL_"),
        "## Administration of Kafka",
        "",
        "For `python -m infra.kafka.topics` and `python -m infra.kafka.access`, beside the `KAFKA_` variables above.",
        "",
        _variables(AdminSettings, {"kafka_users"}, "DRIFTWHEEL_"),
    ]
    found = {
        service: importlib.import_module(f"services.{service}.settings").Settings for service in SERVICES
    }
    shared: dict[type[BaseModel], list[str]] = {}
    for service, model in found.items():
        for owner in _owners(model):
            if owner is not model:
                shared.setdefault(owner, []).append(service)
    for owner, having in shared.items():
        names = {SERVICES: "every service and the console", topology.SERVICES: "every service"}
        who = names.get(tuple(having), ", ".join(having))
        parts += [
            f"## {_words(owner.__name__)}",
            "",
            f"{prose(first_paragraph(owner.__doc__))} Of {who}, below its prefix.",
            "",
        ]
        parts.append(_variables(owner, _own(owner)))
    for service, model in found.items():
        prefix = f"DRIFTWHEEL_{service.upper()}__"
        parts += [f"## {service}", "", f"Prefix `{prefix}`.", "", _variables(model, _own(model), prefix)]
    return "\n".join(parts)


def _words(name: str) -> str:
    """`WorkerSettings` as a heading."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).capitalize()


def _owners(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The classes that declare a field of it, the model itself first."""
    return [owner for owner in model.__mro__ if issubclass(owner, BaseModel) and _own(owner)]


def _own(owner: type[BaseModel]) -> set[str]:
    return set(owner.__annotations__) & set(owner.model_fields)


def _variables(model: type[BaseModel], names: set[str], prefix: str = "") -> str:
    rows = fields(model.model_json_schema(), names)
    return table(
        ("Variable", *_HEAD[1:]),
        ((code(prefix + row[0].strip("`").upper()), *row[1:]) for row in rows),
    )


def topics() -> str:
    """Every event and topic."""
    parts = [
        "# Events and topics",
        "",
        "One topic per event type; `ce_type` is the topic plus its version. Events are CloudEvents 1.0 in Kafka's binding, binary mode; "
        "structured mode and plain JSON are read too. Payloads carry ids, digests and object keys, never rows or weights. Keys "
        "that a reader does not know are passed over. Each service serves what it receives as AsyncAPI at `/api/<service>/asyncapi.json`.",
        "",
        f"Topics have {PARTITIONS} partitions; those of single answers ({', '.join(code(name) for name in BUSY)}) as many as "
        f"`DRIFTWHEEL_KAFKA_PARTITIONS` says. Events are kept for {RETENTION_DAYS['event']} days, dead letters for "
        f"{RETENTION_DAYS['dead letter']}; of what is compacted the newest of each key stays for ever.",
        "",
        table(
            ("Topic", "From", "To", "Kept", "Carries"),
            (
                (
                    f"[`{event.topic}`](#{_anchor(event.topic)})",
                    _from(event),
                    ", ".join(CONSUMERS[event.topic]),
                    "compacted" if event in STATE else f"{RETENTION_DAYS['event']} days",
                    prose(first_paragraph(event.__doc__)),
                )
                for event in EVENTS
            ),
        ),
    ]
    parts += [part for event in EVENTS for part in _event(event)]
    shared: dict[str, Any] = {}
    for event in EVENTS:
        shared |= event.model_json_schema().get("$defs", {})
    left_to_policy = Policy.model_json_schema()["$defs"].keys() | {"Policy"}
    parts += ["## Parts of events", "", "The parts of a policy are on [their own page](policy.md).", ""]
    parts += _definitions({"$defs": {k: v for k, v in shared.items() if k not in left_to_policy}}, "###")
    parts += [
        "### Kinds of text",
        "",
        table(("Called", "Pattern"), ((word, code(p)) for p, word in WORDS.items())),
    ]
    text = "\n".join(parts)
    for name in left_to_policy:
        anchor = "policy" if name == "Policy" else name.lower()
        text = text.replace(f"[{name}](#{name.lower()})", f"[{name}](policy.md#{anchor})")
    return text


def _event(event: type[Event]) -> Iterator[str]:
    yield f"## {event.topic} {{ #{_anchor(event.topic)} }}\n"
    yield f"`{event.ce_type()}` · from {_from(event)} · to {', '.join(CONSUMERS[event.topic])}\n"
    yield f"{prose((event.__doc__ or '').strip())}\n"
    if event.signed:
        yield "Counts only with the registry's signature.\n"
    dead = ", ".join(code(dead_letters_of(event.topic, service)) for service in CONSUMERS[event.topic])
    yield f"Dead letters: {dead}\n"
    yield table(_HEAD, fields(event.model_json_schema()))


def _from(event: type[Event]) -> str:
    return ", ".join((*PRODUCERS[event.topic], *(["other systems"] if event.foreign else [])))


def _anchor(topic: str) -> str:
    return topic.replace(".", "-")


def choices() -> str:
    """What a policy may name and a file may hold: every plug-in, from the dict that knows it."""
    from services.data.formats import FORMATS
    from services.data.readers import READERS
    from services.data.rows import Reason
    from services.evaluator.metrics import METRICS
    from services.monitor.detectors import DETECTORS
    from services.serving.engines import ENGINES
    from services.trainer.methods import METHODS

    def said(function: object) -> str:
        return prose(importlib.import_module(getattr(function, "__module__", "")).__doc__ or "")

    def plain(known: Mapping[str, object]) -> str:
        return table(("Name", "What it is"), ((code(name), said(one)) for name, one in known.items()))

    return "\n".join(
        (
            "# Choices",
            "",
            "What policies, settings and uploads may name.",
            "",
            "## Shapes of rows",
            "",
            "A row that has these columns has this shape; the first row that fits one decides for its file, `--format` says it.",
            "",
            table(
                ("Name", "Columns", "What it is"),
                (
                    (code(name), " ".join(code(key) for key in sorted(one.keys)), said(one.to_messages))
                    for name, one in FORMATS.items()
                ),
            ),
            "## Files",
            "",
            plain(READERS),
            "## Why a row is dropped",
            "",
            "Read = kept + dropped; each dropped row has one reason: "
            + ", ".join(map(code, get_args(Reason)))
            + ".",
            "",
            "## Methods of training",
            "",
            "`recipe.method`",
            "",
            plain(METHODS),
            "## Metrics of evaluation",
            "",
            "`gates[].metric`",
            "",
            table(
                ("Name", "Better", "How exactly", "What it is"),
                (
                    (
                        code(name),
                        "more" if one.higher_is_better else "less",
                        prose(one.signature),
                        said(one.statistics),
                    )
                    for name, one in METRICS.items()
                ),
            ),
            "## Detectors of drift",
            "",
            "`drift.detector`",
            "",
            plain(DETECTORS),
            "## Engines",
            "",
            "`DRIFTWHEEL_ENGINE`",
            "",
            plain(ENGINES),
        )
    )
