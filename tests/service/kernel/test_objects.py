"""The object store's contract on a real S3: conditional writes are real, artifacts are whole or absent."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shared.artifacts.objects import MANIFEST, S3Objects, fetch, object_key, publish, read_manifest
from shared.contracts.errors import Invalid, NotFound, Unavailable

BUCKET = "datasets"


@pytest.fixture
async def store(s3: Any) -> S3Objects:
    return S3Objects(s3.endpoint, *s3.key("admin"))


async def test_create_writes_once_among_many(store: S3Objects) -> None:
    key = f"race/{id(store)}"
    won = await asyncio.gather(*(store.create(BUCKET, key, str(n).encode()) for n in range(16)))
    assert won.count(True) == 1
    assert await store.get(BUCKET, key) == str(won.index(True)).encode()
    assert not await store.create(BUCKET, key, b"later")


async def test_objects_come_back_as_they_were(store: S3Objects, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "in").write_bytes(data)
    await store.upload(BUCKET, "plain/in", tmp_path / "in")
    await store.download(BUCKET, "plain/in", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert b"".join([chunk async for chunk in store.stream(BUCKET, "plain/in")]) == data
    assert await store.keys(BUCKET, "plain/") == ["plain/in"]
    await store.delete(BUCKET, "plain/in")
    assert not await store.exists(BUCKET, "plain/in")
    with pytest.raises(NotFound):
        await store.get(BUCKET, "plain/in")


async def test_publishing_twice_changes_nothing(store: S3Objects, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    files = {"a.jsonl": tmp_path / "a.jsonl", "b.txt": b"b"}
    first = await publish(store, BUCKET, files, {"kind": "test"})
    second = await publish(store, BUCKET, files, {"kind": "test"})
    assert first == second
    assert await read_manifest(store, BUCKET, first.digest) == first.manifest
    fetched = await fetch(store, BUCKET, first.digest, tmp_path / "to")
    assert fetched == first.manifest
    assert (tmp_path / "to" / "b.txt").read_bytes() == b"b"


async def test_without_its_manifest_an_artifact_does_not_exist(store: S3Objects, tmp_path: Path) -> None:
    published = await publish(store, BUCKET, {"a.txt": b"half"}, {"kind": "half"})
    await store.delete(BUCKET, object_key(published.digest, MANIFEST))
    with pytest.raises(NotFound):
        await fetch(store, BUCKET, published.digest, tmp_path / "to")


@pytest.mark.parametrize("name", ["a.txt", MANIFEST])
async def test_an_altered_artifact_is_refused(store: S3Objects, tmp_path: Path, name: str) -> None:
    published = await publish(store, BUCKET, {"a.txt": b"true"}, {"kind": f"altered-{name}"})
    await store.put(BUCKET, object_key(published.digest, name), b"lies")
    with pytest.raises(Invalid):
        await fetch(store, BUCKET, published.digest, tmp_path / "to")
    assert not (tmp_path / "to" / "a.txt").exists()


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "", "a\n", "a b", "\x00"])
def test_keys_are_built_from_clean_parts(name: str) -> None:
    with pytest.raises(Invalid):
        object_key("0" * 64, name)
    with pytest.raises(Invalid):
        object_key(name, "a")


async def test_a_store_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await S3Objects("http://127.0.0.1:9", "a", "b").get(BUCKET, "k")
