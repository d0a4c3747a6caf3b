"""The contract between teams: a change of an event must leave every old reader and writer working, whenever it
was released."""

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shared.contracts.events import EVENTS, TrainingRequested
from tests.contract.schemas import BREAK, FOLDER, breaks, current, history, names, plain, samples

ROOT = Path(__file__).parents[2]
BY_TYPE = {event.ce_type(): event for event in EVENTS}
REVISIONS = [(name, number) for name in names() for number in range(len(history(name)))]


def _read(name: str, payload: Any) -> Any:
    event = BY_TYPE[name].received(payload)
    if isinstance(event, TrainingRequested):
        assert event.fault is None, event.fault
    return event


def test_every_event_is_in_the_history() -> None:
    assert set(current()) <= set(names()), "run: python -m tests.contract.schemas"


@pytest.mark.parametrize("name", sorted(current()))
def test_the_newest_revision_is_what_the_code_says(name: str) -> None:
    assert plain(history(name)[-1]) == current()[name], "run: python -m tests.contract.schemas"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a clone with its history")
    return done.stdout


def test_a_committed_revision_is_never_changed_or_removed() -> None:
    """Else a break would pass by writing the history anew. The first commit of the history is where it begins."""
    folder = FOLDER.relative_to(ROOT)
    began = _git(
        "log", "--diff-filter=A", "--format=%H", "--", f"{folder}/model.declared.v1/0001.json"
    ).split()
    if not began:
        return
    changed = _git("diff", "--name-only", "--diff-filter=DMRT", began[-1], "--", str(folder)).splitlines()
    assert [path for path in changed if path.endswith((".json", ".jsonl"))] == []


@pytest.mark.parametrize(("name", "number"), REVISIONS)
def test_each_revision_is_compatible_with_all_before_it(name: str, number: int) -> None:
    revision = history(name)[number]
    found = [why for old in history(name)[:number] for why in breaks(plain(old), plain(revision))]
    assert not found or revision.get(BREAK), found


@pytest.mark.parametrize(("name", "revision", "payload"), list(samples.committed()))
def test_what_older_releases_sent_is_read_today(name: str, revision: str, payload: Any) -> None:
    _read(name, payload)


def _portable(schema: Any) -> Any:
    """Python's `re` spells the end of a text in its own way."""
    if isinstance(schema, dict):
        return {
            re.sub(r"\\z$", r"\\Z", key): re.sub(r"\\z$", r"\\Z", item)
            if key == "pattern"
            else _portable(item)
            for key, item in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


def _tolerant(schema: Any) -> Any:
    """As events are read: unknown keys are passed over."""
    if isinstance(schema, dict):
        kept = {key: _tolerant(item) for key, item in schema.items()}
        if kept.get("additionalProperties") is False:
            del kept["additionalProperties"]
        return kept
    return [_tolerant(item) for item in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize(("name", "number"), REVISIONS)
def test_what_is_sent_today_is_read_by_older_releases(name: str, number: int) -> None:
    revision = history(name)[number]
    for payload in samples.samples(current()[name]):
        written = _read(name, payload).model_dump(mode="json")
        if not any(later.get(BREAK) for later in history(name)[number + 1 :]):
            jsonschema.validate(written, _portable(_tolerant(plain(revision))))


def _with_strangers(value: Any, depth: int = 0) -> Iterator[Any]:
    """Copies of a payload, each with one more key somewhere that no release knows yet."""
    if isinstance(value, dict):
        yield {**value, "x_of_tomorrow": {"deep": [1]}}
        for key, item in value.items():
            for changed in _with_strangers(item, depth + 1):
                yield {**value, key: changed}
    elif isinstance(value, list):
        for place, item in enumerate(value):
            for changed in _with_strangers(item, depth + 1):
                yield [*value[:place], changed, *value[place + 1 :]]


@pytest.mark.parametrize("name", sorted(set(current()) - {TrainingRequested.ce_type()}))
def test_keys_of_a_newer_release_are_passed_over_at_any_depth(name: str) -> None:
    keyed = {"by_split", "rows", "dropped"}  # maps, whose keys are data
    for payload in samples.samples(current()[name]):
        for changed in _with_strangers({key: item for key, item in payload.items() if key not in keyed}):
            given = payload | changed
            assert _read(name, given) == _read(name, payload)


def test_a_requester_is_told_of_a_misspelt_key_of_its_recipe() -> None:
    event = TrainingRequested.received({"model": "support", "idempotency_key": "k", "recipe": {"epocks": 3}})
    assert event.fault is not None
    assert event.fault.field == "recipe.epocks"


def _mutate(change: str) -> dict[str, Any]:
    schema = copy.deepcopy(current()["feedback.recorded.v1"])
    fields, required = schema["properties"], schema["required"]
    match change:
        case "new required field":
            fields["team"] = {"type": "string"}
            required.append("team")
        case "required field gone":
            del fields["score"]
            required.remove("score")
        case "required field became optional":
            required.remove("score")
        case "optional became required":
            required.append("corrected")
        case "type changed":
            fields["score"]["type"] = "string"
        case "pattern narrowed":
            fields["model"]["pattern"] = "x"
        case "bound tightened":
            fields["score"]["maximum"] = 0.5
        case "bound loosened":
            fields["score"]["maximum"] = 2
        case "text shortened":
            fields["actor"]["maxLength"] = 1
        case "unknown keys refused":
            schema["additionalProperties"] = False
        case "alternative removed":
            fields["corrected"]["anyOf"].pop()
        case "keyword nobody checks":
            fields["score"]["contentEncoding"] = "base64"
    return schema


@pytest.mark.parametrize(
    "change",
    [
        "new required field",
        "required field gone",
        "required field became optional",
        "optional became required",
        "type changed",
        "pattern narrowed",
        "bound tightened",
        "bound loosened",
        "text shortened",
        "unknown keys refused",
        "alternative removed",
        "keyword nobody checks",
    ],
)
def test_the_checker_sees_breaks(change: str) -> None:
    assert breaks(current()["feedback.recorded.v1"], _mutate(change))


def test_an_optional_field_is_no_break() -> None:
    schema = copy.deepcopy(current()["feedback.recorded.v1"])
    schema["properties"]["mood"] = {"type": "string", "default": ""}
    assert not breaks(current()["feedback.recorded.v1"], schema)
