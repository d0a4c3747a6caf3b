"""Files of an installation are its owner's alone, and installing it opens nothing that was closed."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from infra.local import unprivileged
from infra.local.process import marked
from infra.local.stack import Stack

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs processes as somebody else")


@pytest.fixture(scope="module")
def closed() -> Iterator[Stack]:
    """A stack whose home lies where nobody else may pass, as /root is, and was made open to all by an older one."""
    above = Path(tempfile.mkdtemp(prefix="driftwheel-closed-")).resolve()
    home = above / "project" / ".driftwheel"
    home.mkdir(parents=True)
    for folder in (home.parent, home):
        folder.chmod(0o755)  # whatever the umask of this process is by now
    with Stack(
        home, engine="transformers", durable=False, http_port=18_095, unprivileged=Path("/var/lib/driftwheel")
    ) as stack:
        stack.start("kafka", "postgres", "s3")
        yield stack
    shutil.rmtree(above)
    unprivileged.sweep(stack.settings.unprivileged)


def places(stack: Stack) -> list[Path]:
    elsewhere = [Path(p.cwd()) for p in marked(stack.home) if p.pid == stack.pid("postgres")]
    return [stack.home, *elsewhere]


def test_all_it_writes_is_readable_by_its_owner_alone(closed: Stack) -> None:
    files = [path for place in places(closed) for path in (place, *place.rglob("*")) if not path.is_symlink()]
    files = [path for path in files if path.suffix != ".vif"]  # SeaweedFS sets the mode of these itself
    assert len(files) > 300
    assert [str(path) for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_no_folder_above_its_home_was_opened(closed: Stack) -> None:
    assert [stat.S_IMODE(above.stat().st_mode) for above in (closed.home, *list(closed.home.parents)[:2])] == [
        0o700, 0o755, 0o700,
    ]  # fmt: skip


@as_root
def test_postgres_runs_as_a_user_that_no_account_is_and_nobody_reads_its_files(closed: Stack) -> None:
    owners = {process.uids().real for process in marked(closed.home)}
    data = places(closed)[1]
    assert owners == {0, data.stat().st_uid}
    assert data.stat().st_uid in unprivileged.CANDIDATES
    look = subprocess.run(
        ["find", *map(str, places(closed)), "-type", "f", "-readable"],
        user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert look.stdout == ""


@as_root
def test_data_of_an_older_home_move_to_the_new_place(closed: Stack) -> None:
    with psycopg.connect(closed.env_for("data")["DRIFTWHEEL_DATA__DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    data = places(closed)[1]
    closed.take_down("postgres")
    old = closed.home / "postgres" / "data"
    shutil.move(data, old)
    for path in (old, *old.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    closed.start("postgres")
    with psycopg.connect(closed.env_for("data")["DRIFTWHEEL_DATA__DATABASE_URL"]) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert not old.exists()


def test_a_program_out_of_reach_is_copied_for_all_to_read(tmp_path: Path) -> None:
    installed, root = tmp_path / "installed", tmp_path / "root"
    (installed / "bin").mkdir(parents=True)
    root.mkdir()
    (installed / "bin" / "server").write_text("#!/bin/sh\n")
    (installed / "bin" / "server").chmod(0o700)
    (installed / "text").write_text("words")
    (installed / "text").chmod(0o600)
    copy = unprivileged.program(root, installed, "bin/server", "1")
    assert copy == root / "server-1"
    assert stat.S_IMODE((copy / "bin" / "server").stat().st_mode) == 0o755
    assert stat.S_IMODE((copy / "text").stat().st_mode) == 0o644
    assert stat.S_IMODE((installed / "text").stat().st_mode) == 0o600
    assert unprivileged.program(root, installed, "bin/server", "1") == copy
    assert sorted(path.name for path in root.iterdir()) == ["server-1"]


def test_only_what_belongs_to_a_temporary_home_that_is_gone_is_swept(tmp_path: Path) -> None:
    homes = {
        "here": tmp_path,
        "gone": tmp_path / "gone",
        "away": Path("/mnt/a-disk-that-is-not-mounted/home"),
    }
    for name, home in homes.items():
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "home").write_text(str(home))
    unprivileged.sweep(tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["away", "here"]


def test_a_folder_that_others_cannot_pass_is_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(unprivileged.Unreachable, match="DRIFTWHEEL_UNPRIVILEGED"):
        unprivileged.folder(tmp_path / "closed" / "root", tmp_path, "postgres")


def test_every_process_of_it_makes_files_for_itself_alone(closed: Stack) -> None:
    masks = {
        process.name(): next(
            line.split()[1]
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("Umask")
        )
        for process in marked(closed.home)
        if psutil.pid_exists(process.pid)
    }
    assert set(masks.values()) == {"0077"}
