"""The supervisor on real processes: what dies comes back, what stops leaves nothing, a second one finds the first."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from infra.kafka import topics
from infra.local import commands, state
from infra.local.part import Launch, Part, Sight
from infra.local.parts import PARTS
from infra.local.process import marked
from infra.local.site import Site, base_environment, python_environment
from infra.local.stack import AlreadyRunning, Stack, StartFailed
from infra.postgres import databases
from tests.conftest import KafkaBroker, PostgresServer, S3Store

SETTINGS: dict[str, Any] = {"durable": False, "engine": "transformers", "http_port": 18_090}


def silent(line: str) -> None:
    """Nobody reads the progress here."""


def until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.05)


def users_of(home: Path) -> list[str]:
    """Every process whose command, folder or environment names this home, however it came to be."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = [
                (process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")
            ]
            texts.append(os.readlink(process / "cwd"))
        except OSError:
            continue
        if any(str(home) in text for text in texts):
            found.append(f"{process.name}: {texts[0][:200]}")
    return found


@pytest.fixture
def home() -> Iterator[Path]:
    """Not pytest's own: a server that gives up root must be able to pass through the folders above."""
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-")).resolve()
    yield folder
    commands.down(home=folder, say=silent)
    shutil.rmtree(folder)


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def test_a_part_starts_alone_keeps_its_data_and_leaves_no_process(home: Path) -> None:
    with Stack(home, **SETTINGS) as stack:
        stack.start("postgres")
        assert set(stack.snapshot()["parts"]) == {"postgres"}
        url = stack.env_for("data")["DRIFTWHEEL_DATA__DATABASE_URL"]
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        pids = [process.pid for process in marked(home)]
        assert stack.pid("postgres") in pids
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert users_of(home) == []
    assert not answers(url)
    assert state.read(home)["state"] == "stopped"
    with Stack(home, **SETTINGS) as stack:
        stack.start("postgres")
        with psycopg.connect(stack.env_for("data")["DRIFTWHEEL_DATA__DATABASE_URL"]) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_killed_part_is_started_again_on_its_port(home: Path) -> None:
    with Stack(home, **SETTINGS) as stack:
        stack.start("postgres")
        url, before = stack.env_for("data")["DRIFTWHEEL_DATA__DATABASE_URL"], stack.pid("postgres")
        for restarts in (1, 2):
            stack.kill("postgres")
            stack.wait_ready("postgres", 60)
            assert answers(url)
            assert stack.snapshot()["parts"]["postgres"]["restarts"] == restarts
        assert stack.pid("postgres") != before
        before = stack.pid("postgres")
        os.kill(before, signal.SIGKILL)  # by somebody else
        until(lambda: stack.snapshot()["parts"]["postgres"]["restarts"] == 3, "noticed")
        stack.wait_ready("postgres", 60)
        stack.restart("postgres")
        stack.wait_ready("postgres", 60)
        assert answers(url)


def test_two_stacks_run_side_by_side_and_a_home_has_one(home: Path) -> None:
    other = Path(tempfile.mkdtemp(prefix="driftwheel-"))
    with Stack(home, **SETTINGS) as first, Stack(other, **SETTINGS) as second:
        first.start("postgres")
        second.start("postgres")
        assert not set(first.site.ports.values()) & set(second.site.ports.values())
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            Stack(home)
        assert answers(first.site.postgres_admin_url)
        assert answers(second.site.postgres_admin_url)
    assert users_of(other) == []
    shutil.rmtree(other)


def test_up_finds_a_running_stack_and_down_stops_it(home: Path) -> None:
    lines: list[str] = []
    first = commands.up(home=home, parts=["postgres"], detach=True, say=lines.append, **SETTINGS)
    assert first["state"] == "ready"
    assert any("postgres" in line and "ready" in line for line in lines)
    second = commands.up(home=home, parts=["postgres"], say=silent, **SETTINGS)
    assert second["already_running"]
    assert second["pid"] == first["pid"] != os.getpid()
    seen = commands.status(home=home)
    assert seen["parts"]["postgres"]["pid"] == first["parts"]["postgres"]["pid"]
    until(lambda: commands.status(home=home)["parts"]["postgres"]["rss_bytes"] > 0, "the record shows memory")
    assert commands.down(home=home, say=silent)["was_running"]
    assert users_of(home) == []
    assert commands.status(home=home)["state"] == "stopped"
    assert not commands.down(home=home, say=silent)["was_running"]


def test_ctrl_c_stops_everything_even_when_it_is_pressed_twice(home: Path) -> None:
    # As in a terminal: a suite that runs in the background would hand down that Ctrl-C is ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += (
        "import sys, pathlib; from infra.local import commands; commands.up(home=pathlib.Path(sys.argv[1]), "
    )
    code += "parts=['postgres'], durable=False)"
    shell = subprocess.Popen(
        [sys.executable, "-c", code, str(home)],
        env=python_environment(),
        stderr=subprocess.PIPE,
    )
    until(lambda: state.read(home).get("state") == "ready", "ready", 300)
    shell.send_signal(signal.SIGINT)
    until(lambda: state.read(home).get("state") != "ready", "stopping")
    shell.send_signal(signal.SIGINT)
    _, told = shell.communicate(timeout=240)
    assert shell.returncode == 0, told
    assert b"postgres" in told
    assert users_of(home) == []


def test_no_secret_is_in_the_record_or_the_logs_and_no_socket_is_left(home: Path) -> None:
    with Stack(home, **SETTINGS) as stack:
        stack.start("postgres", "s3")
        credentials, used = stack.site.credentials, [stack.site.ports[name] for name in PARTS["s3"].ports]
    assert not [
        file for file in Path("/tmp").glob("seaweedfs-*.sock") if int(file.stem.rpartition("-")[2]) in used
    ]
    hidden = [*credentials.postgres.values(), *(key.secret for key in credentials.s3.values())]
    for file in (home / state.FILE, *(home / "logs").iterdir()):
        text = file.read_text(errors="replace")
        assert not any(secret in text for secret in hidden), file


def test_parts_die_with_a_killed_supervisor_and_the_next_one_starts_clean(home: Path) -> None:
    environment = python_environment() | {
        f"DRIFTWHEEL_{name.upper()}": str(value) for name, value in SETTINGS.items()
    }
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "infra.local", "postgres", "s3"],
        env=environment | {"DRIFTWHEEL_HOME": str(home)},
    )
    until(lambda: state.read(home).get("state") == "ready", "ready", 300)
    assert len(marked(home)) >= 2
    supervisor.kill()
    supervisor.wait()
    until(lambda: users_of(home) == [], "every process of the dead supervisor has ended", 240)
    assert commands.status(home=home)["state"] == "stopped"
    with Stack(home, **SETTINGS) as stack:
        stack.start("postgres")
        assert answers(stack.site.postgres_admin_url)


def test_a_process_left_by_a_crash_is_ended_by_the_next_start(home: Path) -> None:
    left = subprocess.Popen(
        ["sleep", "600"], env={"DRIFTWHEEL_PART": f"{home}|earlier|kafka"}, start_new_session=True
    )
    bystander = subprocess.Popen(["sleep", "600"], env={"DRIFTWHEEL_PART": f"{home}-other|earlier|kafka"})
    try:
        assert commands.status(home=home)["orphans"] == [left.pid]
        with Stack(home, **SETTINGS):
            assert not psutil.pid_exists(left.pid)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_part_that_cannot_start_is_named_with_its_log(home: Path) -> None:
    with Stack(home, **SETTINGS, base_model=home / "nothing") as stack, pytest.raises(StartFailed) as caught:
        stack.start("engine")
    assert "engine" in str(caught.value)
    assert "make setup" in str(caught.value)
    assert users_of(home) == []


class Waiting(Part):
    """Answers, and waits for something that never comes."""

    name, start_seconds, look_seconds = "waiting", 1.0, 0.1

    def launch(self, site: Site) -> Launch:
        return Launch(["sleep", "600"], base_environment(), site.home)

    def check(self, site: Site, since: float) -> None:
        raise AssertionError("it said that it waits")

    def look(self, site: Site, since: float) -> Sight:
        return Sight(waits=("a model: it is not declared",))


def test_a_start_ends_when_a_part_waits_though_all_else_is_up(home: Path) -> None:
    with (
        Stack(home, [Waiting()], **SETTINGS) as stack,
        pytest.raises(StartFailed, match="all else is up, but waiting waits: a model: it is not declared"),
    ):
        stack.start("postgres", "waiting")
    assert users_of(home) == []


def test_your_own_postgres_is_used_and_not_started(home: Path, postgres: PostgresServer) -> None:
    with Stack(home, **SETTINGS, postgres_url=postgres.admin_url, postgres_prefix="second_") as stack:
        stack.start("postgres")
        part = stack.snapshot()["parts"]["postgres"]
        assert (part["state"], part["pid"]) == ("external", None)
        told = stack.env_for("data")["DRIFTWHEEL_DATA__DATABASE_URL"]
        assert told.rpartition("/")[2] == "second_data"
        assert told == stack.site.database_url("data")
        assert answers(told)
        databases.ensure(postgres.admin_url, {"second_data": stack.site.credentials.postgres["data"]})
    assert answers(postgres.url("data"))


def test_a_role_of_somebody_else_keeps_its_password(postgres: PostgresServer) -> None:
    with pytest.raises(databases.RoleTaken, match=r"the role data exists .* DRIFTWHEEL_POSTGRES_PREFIX"):
        databases.ensure(postgres.admin_url, {"brand_new": "x", "data": "another"})
    assert answers(postgres.url("data"))
    with psycopg.connect(postgres.admin_url) as admin:
        found = admin.execute("SELECT 1 FROM pg_roles WHERE rolname = 'brand_new'").fetchone()
    assert found is None


def test_a_service_opens_its_own_database_and_no_other(postgres: PostgresServer) -> None:
    assert answers(postgres.url("data"))
    address = postgres.url("data").rpartition("/")[0]
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(f"{address}/registry")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url("data").replace("data:", "data:x", 1))


@pytest.mark.usefixtures("postgres", "kafka", "s3")
def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    listening = {}
    for process in marked(stack.home):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                listening[connection.laddr.port] = connection.laddr.ip.removeprefix("::ffff:")
    assert {stack.site.ports[name] for name in ("kafka", "postgres", "s3")} <= set(listening)
    assert set(listening.values()) == {"127.0.0.1"}
    assert set(listening) <= set(stack.site.ports.values())


@pytest.mark.faults
@pytest.mark.parametrize("part", ["kafka", "s3"])
def test_kafka_and_s3_come_back_with_what_they_held(
    stack: Stack, kafka: KafkaBroker, s3: S3Store, part: str
) -> None:
    topic = kafka.fresh_topic()
    stack.kill(part)
    stack.wait_ready(part, 120)
    assert asyncio.run(topics.ensure(kafka.settings(), [topics.Topic(topic, 1), *topics.wanted()])) == []
