"""Each thing `doctor` finds wrong says how to mend it."""

import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.local import doctor
from infra.local.credentials import load_or_create
from infra.local.settings import LocalSettings


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    return LocalSettings.of(
        tmp_path / "home",
        cache=tmp_path / "cache",
        base_model=tmp_path / "model",
        engine_python=tmp_path / "python",
    )


def found(settings: LocalSettings, name: str) -> doctor.Check:
    return next(check for check in doctor.examine(settings) if check.name == name)


def test_an_empty_machine_is_told_to_set_up_and_nothing_is_created(
    settings: LocalSettings, tmp_path: Path
) -> None:
    for name in ("engine", "Kafka", "base model"):
        assert "make setup" in found(settings, name).mend
    assert list(tmp_path.iterdir()) == []
    assert not doctor.report(settings)["ok"]


def test_the_small_engine_and_your_own_parts_need_no_installation(settings: LocalSettings) -> None:
    assert found(LocalSettings.of(settings.home, engine="transformers"), "engine").ok
    own = LocalSettings.of(
        settings.home, engine_url="http://gpu:8000", kafka_bootstrap="k:9092", cache=settings.cache
    )
    assert found(own, "engine").ok
    assert found(own, "Kafka").ok


def test_a_secret_that_others_can_read_is_found(settings: LocalSettings) -> None:
    load_or_create(settings.home / "secrets")
    assert found(settings, "secrets").ok
    key = settings.home / "secrets" / "signing-key.json"
    key.chmod(0o644)
    check = found(settings, "secrets")
    assert check.mend == f"run `chmod 600 {key}`"
    assert stat.S_IMODE(key.stat().st_mode) == 0o644  # it reports, it does not change


@pytest.mark.parametrize(("free", "ok"), [(doctor.DISK_BYTES, True), (doctor.DISK_BYTES - 1, False)])
def test_a_full_disk_is_found(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch, free: float, ok: bool
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    assert found(settings, "disk").ok == ok
