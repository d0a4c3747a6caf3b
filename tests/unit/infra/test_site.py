"""What each service is told, which secrets exist, and what a user's own parts change."""

import json
import stat
from pathlib import Path

import pytest

from infra.local.credentials import KAFKA_ROLES, SERVICES, Credentials, load_or_create
from infra.local.parts import PARTS
from infra.local.settings import LocalSettings
from infra.local.site import Site, base_environment

PORTS = {port: 20_000 + i for i, port in enumerate(p for part in PARTS.values() for p in part.ports)}


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return load_or_create(tmp_path / "secrets")


def site(home: Path, credentials: Credentials, **settings: object) -> Site:
    return Site(LocalSettings.of(home, **settings), credentials, PORTS)


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first, second = load_or_create(tmp_path / "s"), load_or_create(tmp_path / "s")
    assert first == second
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700
    for name in ("credentials.json", "signing-key.json"):
        assert stat.S_IMODE((tmp_path / "s" / name).stat().st_mode) == 0o600
    assert load_or_create(tmp_path / "other") != first


def test_an_installation_from_before_kafka_had_users_gets_them_and_keeps_the_rest(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    file = tmp_path / "credentials.json"
    before = json.loads(file.read_text())
    del before["kafka"]
    file.write_text(json.dumps(before))
    now = load_or_create(tmp_path)
    assert set(now.kafka) == {*KAFKA_ROLES, *SERVICES}
    assert load_or_create(tmp_path) == now
    assert {name: value for name, value in json.loads(file.read_text()).items() if name != "kafka"} == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_credentials_do_not_show_in_a_repr(credentials: Credentials) -> None:
    shown = repr(credentials) + repr(credentials.s3["data"])
    hidden = [*credentials.postgres.values(), *(key.secret for key in credentials.s3.values())]
    assert len(set(hidden)) == len(hidden) == 2 * (len(SERVICES) + 1)
    hidden += credentials.kafka.values()
    assert len(set(hidden)) == len(hidden)
    assert not any(secret in shown for secret in hidden)


def test_the_public_key_set_holds_no_private_part(tmp_path: Path, credentials: Credentials) -> None:
    (public,) = json.loads((tmp_path / "secrets" / "jwks.json").read_text())["keys"]
    private = json.loads((tmp_path / "secrets" / "signing-key.json").read_text())
    assert private["d"]
    assert "d" not in public
    assert public["x"] == private["x"]
    assert public["kid"] == private["kid"]
    assert (public["kty"], public["crv"]) == ("OKP", "Ed25519")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_learns_its_own_credentials_and_nobody_elses(
    tmp_path: Path, credentials: Credentials, service: str
) -> None:
    told = " ".join(site(tmp_path, credentials).env_for(service).values())
    assert credentials.postgres[service] in told
    assert credentials.s3[service].secret in told
    assert credentials.kafka[service] in told
    assert not any(word in told for role, word in credentials.kafka.items() if role != service)
    others = [role for role in ("admin", *SERVICES) if role != service]
    assert not any(
        credentials.postgres[role] in told or credentials.s3[role].secret in told for role in others
    )


def test_the_names_of_settings_are_those_services_know(tmp_path: Path, credentials: Credentials) -> None:
    from services.serving.settings import Settings

    environment = site(tmp_path, credentials).env_for("serving")
    known = {f"DRIFTWHEEL_SERVING__{field.upper()}" for field in Settings.model_fields}
    assert set(environment) <= known


def test_your_own_parts_replace_ours(tmp_path: Path, credentials: Credentials) -> None:
    own = site(
        tmp_path,
        credentials,
        kafka_bootstrap="k1:9092,k2:9092",
        postgres_url="postgresql://root:pw@db:6543/postgres?sslmode=require",
        s3_endpoint="https://s3.example",
        s3_access_key="AK",
        s3_secret_key="SK",
        engine_url="http://gpu:8000",
    )
    told = own.env_for("serving")
    assert told["DRIFTWHEEL_SERVING__KAFKA_BOOTSTRAP"] == "k1:9092,k2:9092"
    password = credentials.postgres["serving"]
    assert (
        told["DRIFTWHEEL_SERVING__DATABASE_URL"]
        == f"postgresql://driftwheel_serving:{password}@db:6543/driftwheel_serving?sslmode=require"
    )
    assert told["DRIFTWHEEL_SERVING__S3_ACCESS_KEY"] == "AK"
    assert told["DRIFTWHEEL_SERVING__ENGINE_URL"] == "http://gpu:8000"
    external = {name for name, part in PARTS.items() if part.external(own)}
    assert external == {"kafka", "postgres", "s3", "engine"}
    assert not any(part.external(site(tmp_path, credentials)) for part in PARTS.values())


def test_children_do_not_inherit_settings_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTWHEEL_POSTGRES_URL", "postgresql://root:secret@db/postgres")
    monkeypatch.setenv("LANG", "C")
    environment = base_environment()
    assert "LANG" in environment
    assert not any(name.startswith("DRIFTWHEEL_") for name in environment)


def test_in_your_own_kafka_a_service_may_have_its_own_account(
    tmp_path: Path, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = site(tmp_path, credentials, kafka_bootstrap="k:9093", kafka_username="all", kafka_password="pw")
    monkeypatch.setenv("DRIFTWHEEL_DATA__KAFKA_USERNAME", "sa-data")
    assert own.env_for("trainer")["DRIFTWHEEL_TRAINER__KAFKA_USERNAME"] == "all"
    told = own.settings_of("data") | own.env_for("data")
    assert told["DRIFTWHEEL_DATA__KAFKA_USERNAME"] == "sa-data"
    assert told["DRIFTWHEEL_DATA__KAFKA_PASSWORD"] == "pw"


def test_in_your_own_store_a_service_may_have_keys_of_its_own(
    tmp_path: Path, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = site(
        tmp_path, credentials, s3_endpoint="https://s3.example", s3_access_key="all", s3_secret_key="pw",
        s3_region="eu-central-1", s3_bucket_prefix="acme-",
    )  # fmt: skip
    monkeypatch.setenv("DRIFTWHEEL_DATA__S3_ACCESS_KEY", "data-key")
    monkeypatch.setenv("DRIFTWHEEL_DATA__S3_SECRET_KEY", "data-secret")
    assert own.env_for("trainer")["DRIFTWHEEL_TRAINER__S3_ACCESS_KEY"] == "all"
    told = own.settings_of("data") | own.env_for("data")
    assert told["DRIFTWHEEL_DATA__S3_ACCESS_KEY"] == "data-key"
    assert told["DRIFTWHEEL_DATA__S3_SECRET_KEY"] == "data-secret"
    assert told["DRIFTWHEEL_DATA__S3_REGION"] == "eu-central-1"
    assert told["DRIFTWHEEL_DATA__S3_BUCKET_PREFIX"] == "acme-"
    monkeypatch.setenv("DRIFTWHEEL_DATA__S3_REGION", "elsewhere")
    ours = site(tmp_path, credentials)
    assert ours.env_for("data")["DRIFTWHEEL_DATA__S3_ACCESS_KEY"] == credentials.s3["data"].access
