"""The object store's contract on a real S3: conditional writes are real, artifacts are whole or absent."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.s3 import buckets
from shared.artifacts.connection import connect
from shared.artifacts.objects import MANIFEST, S3Objects, fetch, object_key, publish, read_manifest
from shared.artifacts.settings import S3Settings
from shared.contracts.errors import Invalid, NotFound, Unavailable
from tests.conftest import S3Store
from tests.service.kernel.s3_proxy import Proxy, before

BUCKET = "datasets"


@pytest.fixture(params=["", "acme-"], ids=["plain names", "prefixed names"])
async def store(s3: S3Store, request: pytest.FixtureRequest) -> S3Objects:
    access, secret = s3.key("admin")
    at = S3Settings(
        s3_endpoint=s3.endpoint, s3_access_key=access, s3_secret_key=SecretStr(secret), s3_bucket_prefix=request.param,
    )  # fmt: skip
    buckets.ensure(connect(at), at)
    return S3Objects.of(at)


@pytest.fixture
def proxy(s3: S3Store) -> Iterator[Proxy]:
    with before(s3.endpoint) as proxy:
        yield proxy


def through(proxy: Proxy, s3: S3Store) -> S3Objects:
    return S3Objects(proxy.endpoint, *s3.key("admin"))


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


@pytest.mark.parametrize("name", ["a.txt", "b.bin", MANIFEST])
async def test_publishing_again_mends_what_was_altered(store: S3Objects, tmp_path: Path, name: str) -> None:
    (tmp_path / "b.bin").write_bytes(b"b" * 3_000_000)
    files = {"a.txt": b"true", "b.bin": tmp_path / "b.bin"}
    published = await publish(store, BUCKET, files, {"kind": f"mended-{name}"})
    await store.put(BUCKET, object_key(published.digest, name), b"lies")
    assert await publish(store, BUCKET, files, {"kind": f"mended-{name}"}) == published
    assert await fetch(store, BUCKET, published.digest, tmp_path / "to") == published.manifest
    await store.delete(BUCKET, object_key(published.digest, name))
    await publish(store, BUCKET, files, {"kind": f"mended-{name}"})
    assert await fetch(store, BUCKET, published.digest, tmp_path / "to") == published.manifest


async def test_no_artifact_is_called_published_while_a_rival_s_manifest_is_under_way(
    s3: S3Store, proxy: Proxy
) -> None:
    """409: another writer of the same key is not done. It may fail, and leave nothing."""
    proxy.first("conflict", "PUT", MANIFEST)
    store = through(proxy, s3)
    published = await publish(store, BUCKET, {"a": b"1"}, {"kind": "409"})
    assert await read_manifest(store, BUCKET, published.digest) == published.manifest


async def test_a_lost_answer_is_not_taken_for_a_rival(s3: S3Store, proxy: Proxy) -> None:
    store = through(proxy, s3)
    proxy.first("lose the answer", "PUT", "lost")
    assert await store.create(BUCKET, "answers/lost", b"mine")
    assert await store.get(BUCKET, "answers/lost") == b"mine"
    proxy.first("lose the answer", "PUT", "lost")
    assert not await store.create(BUCKET, "answers/lost", b"another's")


async def test_a_store_that_never_decides_is_unavailable(s3: S3Store, proxy: Proxy) -> None:
    proxy.decide = lambda method, path: "conflict" if method == "PUT" else "pass"
    with pytest.raises(Unavailable):
        await through(proxy, s3).create(BUCKET, "undecided", b"x")


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "", "a\n", "a b", "\x00"])
def test_keys_are_built_from_clean_parts(name: str) -> None:
    with pytest.raises(Invalid):
        object_key("0" * 64, name)
    with pytest.raises(Invalid):
        object_key(name, "a")


async def test_a_store_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await S3Objects("http://127.0.0.1:9", "a", "b").get(BUCKET, "k")
