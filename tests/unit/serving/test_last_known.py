"""What a process leaves on the disk for the next one: routes that route the same, documents that are what they claim."""

import hashlib
from pathlib import Path

import pytest

from services.serving.last_known import Documents, LastKnown
from services.serving.live import Live
from tests.unit.serving.test_live import READY, model, rollout, snapshot


def restored(folder: Path) -> Live:
    live = Live("base", base_answers=False)
    found = LastKnown(folder).load()
    assert found is not None
    live.recall(found)
    live.engine_up = True
    live.set_ready(READY)
    return live


def test_a_process_that_starts_alone_routes_like_the_one_before(tmp_path: Path) -> None:
    known = snapshot(model(2, 1, "r3"), rollout(3, "running", 1), rollout(4, "pending"))
    LastKnown(tmp_path).save(known)
    before, after = Live("base", base_answers=False), restored(tmp_path)
    before.see(known)
    before.set_ready(READY)
    callers = [f"user-{n}" for n in range(200)]
    assert [after.table.choose("support", one) for one in callers] == [
        before.table.choose("support", one) for one in callers
    ]
    assert after.snapshot.rollouts["r3"].created_at == known.rollouts["r3"].created_at
    assert after.problems() == []
    assert (after.seen, after.fresh, before.fresh) == (True, False, True)


def test_the_file_is_written_when_something_changed_and_is_its_owners_alone(tmp_path: Path) -> None:
    last = LastKnown(tmp_path / "state")
    last.save(snapshot(model(1)))
    (path,) = (tmp_path / "state").iterdir()
    first = path.stat()
    last.save(snapshot(model(1)))
    assert path.stat().st_ino == first.st_ino
    last.save(snapshot(model(2)))
    assert path.stat().st_ino != first.st_ino
    assert first.st_mode & 0o077 == 0
    assert restored(tmp_path / "state").table.routes["support"].champion is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"models": [{"name": 7}]}', b"\xff", b"null"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "routes.json").write_bytes(content)
    assert LastKnown(tmp_path).load() is None
    assert LastKnown(tmp_path / "nowhere").load() is None


async def test_a_document_is_brought_once_and_again_when_it_was_altered(tmp_path: Path) -> None:
    content, brought = b'{"golden": []}', []
    digest = hashlib.sha256(content).hexdigest()

    async def bring() -> bytes:
        brought.append(1)
        return content

    documents = Documents(tmp_path / "documents")
    for _ in range(3):
        assert await documents.get(digest, bring) == content
    assert len(brought) == 1
    (tmp_path / "documents" / f"{digest}.json").write_bytes(b"altered")
    assert await documents.get(digest, bring) == content
    assert len(brought) == 2
    documents.sweep({digest})
    assert len(list((tmp_path / "documents").iterdir())) == 1
    documents.sweep(())
    assert list((tmp_path / "documents").iterdir()) == []


async def test_a_document_that_is_another_one_is_not_kept(tmp_path: Path) -> None:
    async def bring() -> bytes:
        return b"something else"

    documents = Documents(tmp_path)
    assert await documents.get("0" * 64, bring) == b"something else"
    assert await documents.get("../../etc/passwd", bring) == b"something else"
    assert list(tmp_path.iterdir()) == []
