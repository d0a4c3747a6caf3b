"""The supervisor's decisions: order, back-off, ports, state file, cores."""

import json
import socket
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local import ports, state
from infra.local.part import Launch, Part, cpu_share
from infra.local.parts import PARTS
from infra.local.parts.kafka import cluster_id
from infra.local.process import LOG_LIMIT_BYTES, rotate, tail
from infra.local.runner import back_off
from infra.local.site import Site
from infra.local.stack import closure, waves


class Fake(Part):
    def __init__(self, name: str, needs: tuple[str, ...]):
        self.name, self.needs = name, needs

    def launch(self, site: Site) -> Launch:
        raise NotImplementedError

    def check(self, site: Site, since: float) -> None:
        raise NotImplementedError


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Part]:
    """Acyclic by construction: a part needs only parts made before it."""
    names = [f"p{i}" for i in range(draw(st.integers(1, 8)))]
    parts: dict[str, Part] = {}
    for i, name in enumerate(names):
        needs = draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else []
        parts[name] = Fake(name, tuple(needs))
    return dict(draw(st.permutations(list(parts.items()))))


@given(graphs(), st.data())
def test_a_part_starts_after_all_it_needs_and_nothing_else_starts(
    parts: dict[str, Part], data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sampled_from(sorted(parts)), unique=True))
    order = closure(wanted, parts)
    assert len(order) == len(set(order))
    assert set(wanted) <= set(order)
    for position, name in enumerate(order):
        assert set(parts[name].needs) <= set(order[:position])
        assert name in wanted or any(name in parts[other].needs for other in order)


@given(graphs())
def test_a_part_stops_only_after_all_that_need_it(parts: dict[str, Part]) -> None:
    stopped: set[str] = set()
    groups = waves(parts, parts)
    assert sorted(name for group in groups for name in group) == sorted(parts)
    for group in groups:
        for name in group:
            assert {other for other in parts if name in parts[other].needs} <= stopped
        stopped |= set(group)


def test_a_circle_and_an_unknown_part_are_refused() -> None:
    with pytest.raises(ValueError, match="a → b → a"):
        closure(["a"], {"a": Fake("a", ("b",)), "b": Fake("b", ("a",))})
    with pytest.raises(KeyError, match="no part 'nope'"):
        closure(["nope"], PARTS)


def test_every_part_of_the_stack_is_startable_and_has_ports_of_its_own() -> None:
    assert set(closure(PARTS, PARTS)) == set(PARTS)
    names = [port for part in PARTS.values() for port in part.ports]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.2), (1, 0.2), (2, 0.4), (3, 0.8), (8, 25.6), (9, 30.0), (500, 30.0)]
)
def test_back_off_doubles_up_to_half_a_minute(failures: int, seconds: float) -> None:
    assert back_off(failures) == pytest.approx(seconds)


def test_a_reserved_port_is_ours_for_a_server_and_for_no_other_reservation() -> None:
    held = ports.reserve()
    number = held.getsockname()[1]
    assert number in ports.CANDIDATES
    other = ports.reserve(preferred=number)
    assert other.getsockname()[1] != number
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((ports.LOOPBACK, number))
        server.listen()
    held.close()
    again = ports.reserve(preferred=number)
    assert again.getsockname()[1] == number
    again.close()
    other.close()


def test_a_port_that_is_listened_on_is_skipped() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]
        held = ports.reserve(preferred=taken)
        assert held.getsockname()[1] != taken
        held.close()


def test_one_supervisor_per_home(tmp_path: Path) -> None:
    assert not state.running(tmp_path)
    held = state.lock(tmp_path)
    state.write(tmp_path, {"pid": 4711})
    assert state.running(tmp_path)
    with pytest.raises(state.AlreadyRunning, match="4711") as caught:
        state.lock(tmp_path)
    assert caught.value.state == {"pid": 4711}
    held.close()
    assert not state.running(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "null"])
def test_a_broken_record_reads_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / state.FILE).write_text(text)
    assert state.read(tmp_path) == {}


def test_the_record_is_replaced_whole(tmp_path: Path) -> None:
    state.write(tmp_path, {"a": 1})
    first = (tmp_path / state.FILE).open()
    state.write(tmp_path, {"b": 2})
    assert json.load(first) == {"a": 1}  # a reader that had opened the old one still sees all of it
    first.close()
    assert state.read(tmp_path) == {"b": 2}
    assert [p.name for p in tmp_path.iterdir()] == [state.FILE]


@pytest.mark.parametrize(
    ("cores", "engine", "worker"),
    [({3}, None, None), ({0, 1}, {1}, {0}), ({0, 1, 2}, {1, 2}, {0}), ({4, 5, 6, 7}, {6, 7}, {4, 5})],
)
def test_engine_and_worker_never_share_a_core(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], engine: set[int] | None, worker: set[int] | None
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: cores)
    assert cpu_share("engine") == engine
    assert cpu_share("worker") == worker


def test_a_large_log_is_put_aside_and_its_end_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    assert tail(log) == "(no log)"
    log.write_text("\n".join(str(i) for i in range(100)))
    rotate(log)
    assert tail(log, lines=2) == "98\n99"
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "kafka.log.1").exists()


def test_no_cluster_id_looks_like_an_option() -> None:
    drawn = iter([uuid.UUID(int=0xF8 << 120), uuid.UUID(int=1)])
    assert cluster_id(lambda: next(drawn)) == "AAAAAAAAAAAAAAAAAAAAAQ"
