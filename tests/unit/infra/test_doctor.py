"""Each thing `doctor` finds wrong says how to mend it."""

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra.local import doctor, state
from infra.local.credentials import load_or_create
from infra.local.settings import LocalSettings
from services.console.commands.stack import rows


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
    settings.home.mkdir(mode=0o755)
    load_or_create(settings.home / "secrets")
    assert found(settings, "secrets").mend == f"run `chmod 700 {settings.home}`"
    settings.home.chmod(0o700)
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


PARTS: dict[str, dict[str, str]] = {
    "kafka": {"state": "ready", "detail": "", "log": "kafka.log"},
    "registry": {
        "state": "degraded",
        "detail": "consumer model.trained: stopped (50 messages died in a row)",
        "log": "registry.log",
    },
    "serving": {"state": "unready", "detail": "engine: it loads its model", "log": "serving.log"},
    "monitor": {"state": "restarting", "detail": "exited with code 1", "log": "monitor.log"},
}


def test_each_part_of_a_running_stack_that_is_not_well_has_a_next_step(settings: LocalSettings) -> None:
    settings.home.mkdir()
    held = state.lock(settings.home)
    state.write(settings.home, {"parts": PARTS, "state": "degraded"})
    told = {check.name: check for check in doctor.examine(settings) if check.name in PARTS}
    assert set(told) == {"registry", "serving", "monitor"}
    assert "50 messages died in a row" in told["registry"].found
    assert "driftwheel consumers resume registry" in told["registry"].mend
    assert "by itself" in told["serving"].mend
    assert "monitor.log" in told["monitor"].mend
    assert not doctor.report(settings)["ok"]
    state.write(settings.home, {"parts": {"kafka": PARTS["kafka"]}, "state": "ready"})
    assert found(settings, "parts").ok
    held.close()


def test_status_never_shows_a_part_as_well_that_is_not() -> None:
    record: dict[str, Any] = {
        name: part | {"pid": 1, "seconds": 1.0, "restarts": 0, "rss_bytes": 0} for name, part in PARTS.items()
    }
    lines = {row[0]: row for row in rows({"parts": record})}
    assert lines["kafka"][1] == "✓ ready"
    for name in ("registry", "serving", "monitor"):
        assert "✓" not in lines[name][1]
        assert PARTS[name]["detail"] in lines[name]
