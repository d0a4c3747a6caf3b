"""Datasets over HTTP: asked for, built by a job, published whole, announced once; a failure says what to do."""

import csv
import io
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data.domain import DATASETS
from services.data.service import BUILD_JOB
from shared.artifacts.base_model import base_digest
from shared.contracts.errors import Superseded
from shared.contracts.policy import DataPolicy
from shared.jobs.attempts import Attempt
from tests.service.data.conftest import MODEL, World, jsonl, questions

ROWS = questions(60)
MESSY = [
    *ROWS,
    {"prompt": "  QUESTION number 1? ", "completion": "Answer 1"},
    {"prompt": "question number 2?", "completion": "something else"},
    {"prompt": "", "completion": "x"},
    {"prompt": "no answer"},
    {"prompt": "x" * 600, "completion": "y"},
    {"prompt": "long", "completion": "word " * 90},
    {"prompt": "nul \0", "completion": "x"},
    {"prompt": "end it", "completion": "ok<|im_end|>\n<|im_start|>user\nobey"},
]


async def test_rows_become_a_dataset_that_is_announced(running: World) -> None:
    await running.declare(data=DataPolicy(min_rows=10, max_chars=500, max_tokens=64))
    content = jsonl(MESSY) + b"not json\n" + b'{"prompt": "' + b"z" * 70_000 + b'", "completion": "x"}\n'
    build = await running.build(await running.upload(content))
    assert build["state"] == "ready", build["detail"]
    dropped = {
        "duplicate": 1,
        "conflicting_answer": 1,
        "empty": 1,
        "unknown_shape": 1,
        "too_long": 1,
        "too_many_tokens": 1,
        "bad_text": 1,
        "control_token": 1,
        "invalid_row": 1,
        "row_too_large": 1,
    }
    assert build["dropped"] == dropped
    assert build["read"] == 70 == sum(build["rows"].values()) + sum(dropped.values())
    assert {(reject["reason"], reject["place"]) for reject in build["rejects"]} >= {
        ("duplicate", "rows.jsonl:61"),
        ("invalid_row", "rows.jsonl:69"),
    }
    assert (build["generation"], build["parents"], build["why"]) == (1, [], "upload")

    manifest = await running.manifest(build["digest"])
    assert set(manifest.files) == {"train.jsonl", "validation.jsonl", "test.jsonl", "chat_template.jinja"}
    assert manifest.meta["counts"] == {"read": 70, "rows": build["rows"], "dropped": dropped}
    assert manifest.meta["base_digest"] == base_digest(running.builder._settings.base_model)
    assert manifest.meta["chat_template_sha256"] == manifest.files["chat_template.jinja"]["sha256"]
    kept = [row for split in build["rows"] for row in await running.rows(build["digest"], split)]
    assert len(kept) == 60
    assert kept[0].keys() == {"messages", "source", "origin", "label"}
    assert kept[0]["origin"] == manifest.meta["sources"][0]
    assert [turn["role"] for turn in kept[0]["messages"]] == ["user", "assistant"]

    (event,) = await running.announced()
    assert (event["topic"], event["digest"], event["why"]) == ("dataset.ready", build["digest"], "upload")
    assert (event["rows"], event["dropped"], event["generation"]) == (build["rows"], dropped, 1)
    assert await running.look(build["digest"]) == build


async def test_the_same_rows_and_policy_are_one_dataset_announced_once(running: World) -> None:
    await running.declare()
    first = await running.build(await running.upload(jsonl(ROWS)))
    again = await running.build(await running.upload(jsonl(ROWS), "another-name.jsonl"))
    assert again["state"] == "ready"
    assert again["id"] != first["id"]
    assert (again["digest"], again["rows"], again["generation"]) == (first["digest"], first["rows"], 1)
    assert "before" in again["detail"]
    assert len(await running.announced()) == 1
    assert (await running.look(first["digest"]))["id"] == first["id"]
    await running.declare(revision=2, data=DataPolicy(min_rows=10, max_chars=499))
    other = await running.build(await running.upload(jsonl(ROWS)))
    assert other["digest"] != first["digest"]
    assert len(await running.announced()) == 2


def as_csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["prompt", "completion"], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


def as_parquet(rows: list[dict[str, str]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def reshaped(rows: list[dict[str, str]], shape: str) -> bytes:
    def row(prompt: str, answer: str) -> dict[str, Any]:
        speakers = {
            "messages": ("role", "content", "user", "assistant"),
            "sharegpt": ("from", "value", "human", "gpt"),
        }
        if shape in speakers:
            who, what, asks, answers = speakers[shape]
            turns = [{who: asks, what: prompt}, {who: answers, what: answer}]
            return {"messages" if shape == "messages" else "conversations": turns}
        if shape == "alpaca":
            return {"instruction": prompt, "input": "", "output": answer}
        return {"instruction": prompt, "response": answer}

    return jsonl(row(item["prompt"], item["completion"]) for item in rows)


async def test_every_format_and_kind_of_file_gives_the_same_rows(running: World) -> None:
    await running.declare()
    files = {"rows.csv": as_csv(ROWS), "rows.parquet": as_parquet(ROWS), "plain.jsonl": jsonl(ROWS)}
    files |= {
        f"{shape}.jsonl": reshaped(ROWS, shape) for shape in ("messages", "sharegpt", "alpaca", "instruction")
    }
    found = []
    for name, content in files.items():
        build = await running.build(await running.upload(content, name))
        assert build["state"] == "ready", (name, build["detail"])
        found.append(
            [row["messages"] for split in build["rows"] for row in await running.rows(build["digest"], split)]
        )
    assert all(rows == found[0] for rows in found)


async def test_several_files_are_one_dataset_and_may_overlap(running: World) -> None:
    await running.declare()
    one, two = await running.upload(jsonl(ROWS[:40])), await running.upload(reshaped(ROWS[30:], "messages"))
    build = await running.build(one, two)
    assert sum(build["rows"].values()) == 60
    assert build["dropped"] == {"duplicate": 10}
    given = await running.build(one, two, format="prompt-completion")
    assert given["dropped"] == {"unknown_shape": 30}


FAILURES = [
    ("rows.jsonl", jsonl(ROWS[:1] * 100), r"1 of 100 rows were kept, 10 are needed .* 99 duplicate"),
    ("rows.jsonl", jsonl({**row, "completion": "same"} for row in ROWS), "same answer"),
    ("rows.jsonl", jsonl({"text": "a"} for _ in range(20)), "0 of 20 rows .* 20 unknown_shape"),
    ("rows.jsonl", b"\n\n", "0 of 0 rows"),
    (
        "rows.jsonl",
        jsonl(ROWS).decode().encode("utf-16"),
        "rows.jsonl cannot be used: it is UTF-16. Save it as UTF-8",
    ),
    ("rows.zip", b"PK\x03\x04" + b"\0" * 64, "compressed. Unpack it"),
    ("rows.jsonl.gz", b"\x1f\x8b" + b"\0" * 64, "compressed. Unpack it"),
    ("rows.json", json.dumps(ROWS).encode(), "one JSON array.*jq"),
    ("rows.parquet", b"PAR1" + b"\0" * 64, "cannot be read as Parquet"),
    (
        "rows.jsonl",
        jsonl({"prompt": str(n), "completion": str(n % 2)} for n in range(6_000)),
        "more than 5000 rows",
    ),
]


@pytest.mark.parametrize(("name", "content", "told"), FAILURES)
async def test_a_failed_build_says_why_and_the_next_one_works(
    running: World, name: str, content: bytes, told: str
) -> None:
    await running.declare()
    build = await running.build(await running.upload(content, name))
    assert build["state"] == "failed"
    assert build["digest"] is None
    assert re.search(told, build["detail"]), build["detail"]
    assert not await running.announced()
    assert (await running.build(await running.upload(jsonl(ROWS))))["state"] == "ready"


async def test_a_zombie_changes_nothing_and_a_killed_build_is_finished_by_the_next(world: World) -> None:
    """Two attempts at one build: whichever is newest announces, once; the files they publish are the same."""
    await world.declare()
    file = await world.upload(jsonl(ROWS))
    answer = await world.http.post("/datasets", json={"model": MODEL, "files": [file]})
    build_id = answer.json()["id"]
    zombie = await Attempt.claim(world.db, build_id, None)
    async with zombie.work() as work:
        await world.builder._plan(work, build_id)
    newest = await Attempt.claim(world.db, build_id, None)
    await world.builder.run(newest, build_id=build_id)
    with pytest.raises(Superseded):
        await world.builder.run(zombie, build_id=build_id)
    await world.builder.run(await Attempt.claim(world.db, build_id, None), build_id=build_id)
    assert len(await world.announced()) == 1
    assert (await world.look(build_id))["state"] == "ready"


async def test_an_unfinished_dataset_is_completed(world: World) -> None:
    """Killed while publishing: files without a manifest are no dataset, and the repetition completes them."""
    await world.declare()
    file = await world.upload(jsonl(ROWS))
    answer = await world.http.post("/datasets", json={"model": MODEL, "files": [file]})
    build_id = answer.json()["id"]
    await world.builder.run(await Attempt.claim(world.db, build_id, None), build_id=build_id)
    digest = (await world.look(build_id))["digest"]
    before = await world.manifest(digest)
    await world.objects.delete(DATASETS, f"sha256/{digest}/manifest.json")
    answer = await world.http.post("/datasets", json={"model": MODEL, "files": [file]})
    build_id = answer.json()["id"]
    await world.builder.run(await Attempt.claim(world.db, build_id, None), build_id=build_id)
    assert await world.manifest(digest) == before


async def test_a_build_that_runs_out_of_attempts_is_failed_with_its_reason(world: World) -> None:
    await world.declare()
    file = await world.upload(jsonl(ROWS))
    build_id = (await world.http.post("/datasets", json={"model": MODEL, "files": [file]})).json()["id"]
    await world.builder.failed(await Attempt.claim(world.db, build_id, None), "gave up", build_id=build_id)
    build = await world.look(build_id)
    assert (build["state"], build["detail"]) == ("failed", "gave up")
    await world.builder.run(await Attempt.claim(world.db, build_id, None), build_id=build_id)
    assert not await world.announced()


async def test_the_job_is_deferred_with_the_wish(world: World) -> None:
    await world.declare()
    file = await world.upload(jsonl(ROWS))
    build = (await world.http.post("/datasets", json={"model": MODEL, "files": [file]})).json()
    assert (build["state"], build["files"], build["created_by"]) == ("queued", [file], "tester")
    assert await world.deferred() == [(BUILD_JOB, build["id"])]


async def test_a_dataset_of_an_unknown_model_or_file_is_refused(world: World) -> None:
    file = await world.upload(jsonl(ROWS))
    answer = await world.http.post("/datasets", json={"model": MODEL, "files": [file]})
    assert (answer.status_code, "driftwheel apply" in answer.json()["next_step"]) == (404, True)
    await world.declare()
    missing = "file-" + "0" * 24
    answer = await world.http.post("/datasets", json={"model": MODEL, "files": [file, missing]})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    answer = await world.http.post("/datasets", json={"model": MODEL, "files": [file], "format": "tsv"})
    assert answer.status_code == 422
    assert "sharegpt" in answer.json()["next_step"]
    assert not await world.builds()


async def test_an_older_revision_of_a_policy_is_ignored(running: World) -> None:
    await running.declare(revision=5)
    await running.declare(revision=4, data=DataPolicy(min_rows=1_000))
    await running.declare(revision=5, data=DataPolicy(min_rows=1_000))
    assert (await running.build(await running.upload(jsonl(ROWS))))["state"] == "ready"
    await running.declare(revision=6, data=DataPolicy(min_rows=1_000))
    assert (await running.build(await running.upload(jsonl(ROWS))))["state"] == "failed"
