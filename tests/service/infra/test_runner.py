"""One part and its thread, with small processes in place of servers."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.local.credentials import load_or_create
from infra.local.part import Launch, NotReady, Part, Sight
from infra.local.runner import FIRST_ATTEMPTS, Runner
from infra.local.settings import LocalSettings
from infra.local.site import Site, base_environment


class Script(Part):
    """Runs a Python script; it is ready once the script has written the file `ready`."""

    stop_seconds = 0.5

    def __init__(self, code: str, name: str = "script"):
        self.code, self.name = code, name
        self.provided = 0

    def launch(self, site: Site) -> Launch:
        return Launch([sys.executable, "-c", self.code], base_environment(), site.folder(self.name))

    def check(self, site: Site, since: float) -> None:
        if not (site.folder(self.name) / "ready").exists():
            raise NotReady("no file yet")

    def provide(self, site: Site) -> None:
        self.provided += 1


class Talker(Script):
    """Says of itself what the test wants; silent when that is nothing."""

    look_seconds, start_seconds, silent_seconds = 0.05, 0.5, 0.5

    def __init__(self, sight: Sight | None, *, external: bool = False):
        super().__init__("import time; time.sleep(600)", "talker")
        self.sight, self.is_external = sight, external

    def external(self, site: Site) -> bool:
        return self.is_external

    def check(self, site: Site, since: float) -> None:
        self.look(site, since)

    def look(self, site: Site, since: float) -> Sight:
        if self.sight is None:
            raise NotReady("no answer")
        return self.sight


def until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.02)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(LocalSettings.of(tmp_path), load_or_create(tmp_path / "secrets"), {})


@pytest.fixture
def runners(site: Site) -> Iterator[list[Runner]]:
    made: list[Runner] = []
    yield made
    for runner in made:
        runner.begin_stop()
        runner.finish_stop()


def run(part: Part, site: Site, runners: list[Runner], needs: list[Runner] | None = None) -> Runner:
    runner = Runner(part, site, f"{site.home}|test|{part.name}", needs or [], lambda name: None)
    runners.append(runner)
    runner.start()
    return runner


WAIT = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(600)"


def test_a_part_that_never_gets_ready_is_given_up_with_the_end_of_its_log(
    site: Site, runners: list[Runner]
) -> None:
    runner = run(Script("import sys; print('no such file: x'); sys.exit(3)"), site, runners)
    assert runner.ended.wait(30)
    assert runner.status.state == "failed"
    assert "exited with code 3" in runner.status.detail
    assert runner.status.detail.count("no such file: x") == FIRST_ATTEMPTS
    assert not runner.ready.is_set()


class Slow(Script):
    """What it needs does not answer its first preparations."""

    def __init__(self, failures: int):
        super().__init__(WAIT, "slow")
        self.failures = failures

    def prepare(self, site: Site) -> None:
        if self.failures:
            self.failures -= 1
            raise NotReady("connection timeout expired")


def test_a_part_whose_preparation_fails_for_a_while_starts_all_the_same(
    site: Site, runners: list[Runner]
) -> None:
    patient = run(Slow(FIRST_ATTEMPTS - 1), site, runners)
    assert patient.ready.wait(30)
    hopeless = run(Slow(FIRST_ATTEMPTS), site, runners)
    assert hopeless.ended.wait(30)
    assert (hopeless.status.state, hopeless.status.detail) == (
        "failed",
        "NotReady: connection timeout expired",
    )


def test_what_needs_a_failed_part_fails_too_and_never_starts(site: Site, runners: list[Runner]) -> None:
    broken = run(Script("raise SystemExit(3)"), site, runners)
    needy = run(Script(WAIT, "needy"), site, runners, needs=[broken])
    assert needy.ended.wait(30)
    assert needy.status.state == "failed"
    assert "script, which it needs" in needy.status.detail
    assert not site.log("needy").exists()


def test_a_part_waits_for_what_it_needs_and_provides_once(site: Site, runners: list[Runner]) -> None:
    first, second = Script("import time; time.sleep(600)", "first"), Script(WAIT, "second")
    below = run(first, site, runners)
    above = run(second, site, runners, needs=[below])
    assert not above.ready.wait(1)
    assert above.status.state == "waiting"
    (site.folder("first") / "ready").touch()
    assert above.ready.wait(30)
    assert below.ready.is_set()
    for restarts in (1, 2):
        above.kill()
        assert above.ready.wait(30)
        assert above.status.restarts == restarts
    assert second.provided == 1


def test_a_deaf_process_is_killed_with_its_children(site: Site, runners: list[Runner]) -> None:
    code = (
        "import pathlib, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "pathlib.Path('child').write_text(str(child.pid)); pathlib.Path('ready').touch(); time.sleep(600)"
    )
    runner = run(Script(code), site, runners)
    assert runner.ready.wait(30)
    child = psutil.Process(int((site.folder("script") / "child").read_text()))
    runner.begin_stop()
    runner.finish_stop()
    assert runner.status.state == "stopped"
    assert child.wait(5) is None or not child.is_running()


def test_children_of_a_crashed_process_do_not_outlive_it(site: Site, runners: list[Runner]) -> None:
    code = (
        "import pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "pathlib.Path('child').write_text(str(child.pid)); pathlib.Path('ready').touch(); time.sleep(600)"
    )
    runner = run(Script(code), site, runners)
    assert runner.ready.wait(30)
    child = psutil.Process(int((site.folder("script") / "child").read_text()))
    runner.kill()
    child.wait(10)
    assert not child.is_running()


def test_a_part_that_waits_for_another_is_left_alone_however_long_that_takes(
    site: Site, runners: list[Runner]
) -> None:
    part = Talker(Sight(waits=("engine: it loads its model",)))
    runner = run(part, site, runners)
    until(lambda: runner.status.state == "unready", "it is seen to wait")
    pid = runner.status.pid
    assert not runner.ready.wait(4 * part.start_seconds)
    assert (runner.status.restarts, runner.status.pid) == (0, pid)
    assert runner.status.detail == "engine: it loads its model"
    part.sight = Sight()
    assert runner.ready.wait(30)
    assert (runner.status.state, runner.status.detail, part.provided) == ("ready", "", 1)
    part.sight = Sight(waits=("database: away",))
    until(lambda: not runner.ready.is_set(), "it is not ready any more")
    part.sight = Sight()
    assert runner.ready.wait(30)
    assert (runner.status.restarts, runner.status.pid, part.provided) == (0, pid, 1)


def test_a_part_that_answers_though_some_of_its_work_stands_still_is_not_called_ready(
    site: Site, runners: list[Runner]
) -> None:
    part = Talker(Sight(troubles=("consumer a.b: stopped (50 messages died in a row)",)))
    runner = run(part, site, runners)
    assert runner.ready.wait(30)
    assert runner.status.state == "degraded"
    assert "50 messages died" in runner.status.detail
    part.sight = Sight()
    until(lambda: runner.status.state == "ready", "it is well again")
    assert runner.status.restarts == 0


def test_a_part_that_says_it_is_stuck_is_started_again(
    site: Site, runners: list[Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.local.runner.STUCK_SECONDS", 0.3)
    part = Talker(Sight())
    runner = run(part, site, runners)
    assert runner.ready.wait(30)
    part.sight = Sight(alive=False)
    until(lambda: runner.status.restarts == 1, "a restart")
    assert "stuck" in runner.status.detail
    part.sight = Sight()
    assert runner.ready.wait(30)


def test_a_part_that_falls_silent_is_started_again(site: Site, runners: list[Runner]) -> None:
    part = Talker(Sight())
    runner = run(part, site, runners)
    assert runner.ready.wait(30)
    part.sight = None
    until(lambda: runner.status.restarts >= 1, "a restart")
    part.sight = Sight()
    assert runner.ready.wait(30)


def test_a_part_of_the_user_that_goes_away_is_shown_and_comes_back(site: Site, runners: list[Runner]) -> None:
    part = Talker(Sight(), external=True)
    runner = run(part, site, runners)
    assert runner.ready.wait(30)
    assert runner.status.state == "external"
    part.sight = None
    until(lambda: runner.status.state == "unready", "it is away")
    assert "your own talker does not answer" in runner.status.detail
    part.sight = Sight()
    until(lambda: runner.status.state == "external", "it is back")
    assert (runner.status.pid, part.provided) == (None, 1)
