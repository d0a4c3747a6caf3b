"""Bad input at the JSON door: 4xx with a body that does not echo it, never 5xx, and the next request works."""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.service.data.conftest import MODEL, World, jsonl, questions

FILE = "file-" + "0" * 24
SECRET = "canary-5d41402abc4b"
GOOD = f'{{"model": "{MODEL}", "files": ["{FILE}"]}}'


def with_value(value: str) -> bytes:
    return f'{{"model": "{MODEL}", "files": ["{FILE}"], "format": {value}, "unknown": "{SECRET}"}}'.encode()


BODIES = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xef\xbb\xbf" + GOOD.encode(),
    b"\xff\xfe" + GOOD.encode("utf-16-le"),
    with_value("NaN"),
    with_value("Infinity"),
    with_value("-Infinity"),
    with_value("1e999"),
    with_value('"\\ud800"'),
    with_value('"\\u0000"'),
    with_value("9" * 5_000),
    with_value("[" * 100_000),
    with_value("[" * 50 + "]" * 50),
    with_value('"messages", "format": "alpaca"'),
    with_value('"' + SECRET * 20_000 + '"'),
    with_value('"' + SECRET * 200_000 + '"'),
    with_value('"messages"'),
    b'{"model": "' + SECRET.upper().encode() + b'", "files": ["' + FILE.encode() + b'"]}',
    f'{{"model": "{MODEL}\\n", "files": ["{FILE}"]}}'.encode(),
    f'{{"model": 5, "files": ["{FILE}"]}}'.encode(),
    f'{{"model": "{MODEL}", "files": []}}'.encode(),
    f'{{"model": "{MODEL}", "files": "{FILE}"}}'.encode(),
    f'{{"model": "{MODEL}", "files": ["{FILE}\\n"]}}'.encode(),
    f'{{"model": "{MODEL}", "files": ["https://{SECRET}.example/rows.jsonl"]}}'.encode(),
    f'{{"model": "{MODEL}", "files": ["../../{SECRET}"]}}'.encode(),
    f'{{"model": "{MODEL}", "files": [{",".join([f"{chr(34)}{FILE}{chr(34)}"] * 21)}]}}'.encode(),
    f'{{"files": ["{FILE}"]}}'.encode(),
    GOOD.encode(),
]


@pytest.mark.parametrize("body", BODIES)
async def test_a_bad_body_is_refused_without_an_echo(world: World, body: bytes) -> None:
    await world.declare()
    answer = await world.http.post("/datasets", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text
    assert SECRET.upper() not in answer.text
    assert not await world.builds()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_another_content_type_is_refused(world: World, headers: dict[str, str]) -> None:
    body = gzip.compress(b"0" * 50_000_000) if "content-encoding" in headers else GOOD.encode()
    answer = await world.http.post("/datasets", content=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text


async def test_an_endless_body_is_cut_off(world: World) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    answer = await world.http.post(
        "/datasets", content=endless(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert sent < 2_000_000


@pytest.mark.parametrize(
    "path",
    ["/datasets/x", "/datasets/%00", "/datasets/..%2f..", "/datasets/build-%0a", "/datasets/" + "f" * 5_000],
)
async def test_a_hostile_id_is_not_found(world: World, path: str) -> None:
    assert (await world.http.get(path)).status_code == 404


@pytest.mark.parametrize("query", ["model=%00", "model=A", "limit=0", "limit=1e9", "model=support%0a"])
async def test_a_hostile_query_is_refused(world: World, query: str) -> None:
    assert (await world.http.get(f"/datasets?{query}")).status_code == 422


async def test_hostile_rows_are_counted_and_shown_safely(running: World) -> None:
    await running.declare()
    hostile: list[dict[str, Any]] = [
        {"prompt": "</script><script>alert(1)</script>", "completion": "=cmd|' /C calc'!A0"},
        {"prompt": "\x1b[2J ansi", "completion": "\u202e reversed"},
        {"prompt": "\x00" * 300, "completion": "x"},
        {"messages": [{"role": "root", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {"prompt": {"$gt": ""}, "completion": ["x"]},
    ]
    content = jsonl([*questions(60), *hostile]) + b'{"prompt": "\\ud800", "completion": "x"}\n\xc3\x28\n'
    build = await running.build(await running.upload(content))
    assert build["state"] == "ready", build["detail"]
    assert build["dropped"] == {"bad_text": 1, "unknown_shape": 2, "invalid_row": 2}
    assert len(build["rejects"]) == 5
