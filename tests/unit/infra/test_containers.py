"""docker-compose.yml holds the processes of the embedded stack, publishes little, and gives each its own secrets."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from infra.docker.prepare import INSIDE, environments, prepare
from infra.local.credentials import SERVICES, load_or_create
from infra.local.parts import PARTS
from infra.local.settings import LocalSettings
from infra.local.site import Site
from services.serving.engines import ENGINES, EngineOptions

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
PUBLISHED = {"caddy", "prometheus", "grafana"}


def test_every_part_has_its_container() -> None:
    assert set(PARTS) <= set(CONTAINERS)


def test_only_what_people_look_at_publishes_a_port_and_on_loopback() -> None:
    assert {name for name, container in CONTAINERS.items() if "ports" in container} == PUBLISHED
    assert all(port.startswith("127.0.0.1:") for name in PUBLISHED for port in CONTAINERS[name]["ports"])


def test_engine_store_broker_and_database_are_on_internal_networks_only() -> None:
    internal = {name for name, network in COMPOSE["networks"].items() if (network or {}).get("internal")}
    for name, container in CONTAINERS.items():
        assert name in PUBLISHED or set(container["networks"]) <= internal, name
        assert "network_mode" not in container
    reach_engine = {name for name, container in CONTAINERS.items() if "engine" in container["networks"]}
    assert reach_engine == {"engine", "serving", "prometheus"}


STEPS_DOWN = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
MAY = {"postgres": STEPS_DOWN, "s3": STEPS_DOWN, "caddy": {"NET_BIND_SERVICE"}}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_bounded_and_has_no_right_that_it_does_not_use(name: str) -> None:
    container = CONTAINERS[name]
    assert container["mem_limit"]
    assert 0 < container["pids_limit"] <= 2_048
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert set(container.get("cap_add", ())) == MAY.get(name, set())
    assert not container.get("privileged")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_gets_its_own_credentials_only(service: str) -> None:
    for name in (service, f"{service}-worker"):
        if name in CONTAINERS:
            assert CONTAINERS[name]["env_file"] == [f".driftwheel/compose/{service}.env"]


def test_the_env_files_named_are_those_that_are_made(tmp_path: Path) -> None:
    prepare(tmp_path)
    for container in CONTAINERS.values():
        mounted = [volume.partition(":")[0] for volume in container.get("volumes", [])]
        for file in [*container.get("env_file", []), *mounted]:
            if "compose/" in file:
                assert (tmp_path / Path(file).name).is_file()
    assert (tmp_path / "data.env").stat().st_mode & 0o077 == 0
    before = (tmp_path / "data.env").read_text()
    prepare(tmp_path)
    assert (tmp_path / "data.env").read_text() == before


def test_kafka_asks_for_a_password_in_tls_and_its_controller_stays_in_the_container(tmp_path: Path) -> None:
    prepare(tmp_path)
    lines = (tmp_path / "kafka.properties").read_text().splitlines()
    assert "listeners=CLIENT://:9092,CONTROLLER://localhost:9093" in lines
    assert "listener.security.protocol.map=CLIENT:SASL_SSL,CONTROLLER:SASL_PLAINTEXT" in lines
    assert not any(line.startswith("KAFKA_LISTENER") for line in CONTAINERS["kafka"]["environment"])
    certificate = x509.load_pem_x509_certificate(
        (tmp_path / "kafka.pem").read_bytes().partition(b"KEY-----\n")[2].partition(b"KEY-----\n")[2]
    )
    authority = x509.load_pem_x509_certificate((tmp_path / "kafka-ca.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    for service in SERVICES:
        environment = (tmp_path / f"{service}.env").read_text()
        assert f"DRIFTWHEEL_{service.upper()}__KAFKA_CA_FILE=/run/keys/kafka-ca.pem" in environment
        assert any("/run/keys/kafka-ca.pem" in volume for volume in CONTAINERS[service]["volumes"])


def test_no_service_learns_a_secret_of_another(tmp_path: Path) -> None:
    credentials = load_or_create(tmp_path)
    told = {name: " ".join(values.values()) for name, values in environments(credentials).items()}
    assert {name for name, text in told.items() if credentials.postgres["admin"] in text} == {
        "postgres",
        "databases",
    }
    assert {name for name, text in told.items() if credentials.s3["admin"].secret in text} == {"buckets"}
    assert {name for name, text in told.items() if credentials.kafka["admin"] in text} == {"topics"}
    assert not any(credentials.kafka["broker"] in text for text in told.values())
    for owner in SERVICES:
        assert {name for name, text in told.items() if credentials.kafka[owner] in text} == {owner, "topics"}
        secrets = credentials.postgres[owner], credentials.s3[owner].secret
        assert {name for name, text in told.items() if any(secret in text for secret in secrets)} == {owner}


def test_the_engine_runs_with_the_flags_of_its_plug_in() -> None:
    options = EngineOptions(
        base_model=Path(INSIDE.base_model), port=8000, host="0.0.0.0", python=Path("python")
    )
    assert CONTAINERS["engine"]["command"] == ENGINES["vllm"].command(options)
    inside = {"PYTHONPATH": "/app"}  # where the image has our code
    assert CONTAINERS["engine"]["environment"] == ENGINES["vllm"].environment(options) | inside


def _flags(words: list[str]) -> dict[str, str]:
    return dict(word.lstrip("-").split("=", 1) for word in words if "=" in word)


def test_the_store_is_locked_like_the_embedded_one(tmp_path: Path) -> None:
    ports = dict.fromkeys(PARTS["s3"].ports, 1)
    command = PARTS["s3"].launch(Site(LocalSettings.of(tmp_path), load_or_create(tmp_path), ports)).command
    embedded, container = _flags(list(command)), _flags(CONTAINERS["s3"]["command"].split())
    differ = {name for name in embedded | container if embedded.get(name) != container.get(name)}
    assert differ == {
        "dir", "master.volumeSizeLimitMB", "volume.preStopSeconds", "s3.config", "s3.ip.bind", "s3.port", "s3.port.grpc",
        "s3.localSocket", "filer.localSocket",
        *(f"{server}.port{kind}" for server in ("master", "volume", "filer") for kind in ("", ".grpc")),
    }  # fmt: skip
    assert container["ip.bind"] == "127.0.0.1"
    prepare(tmp_path / "compose")
    mounted = dict(volume.split(":")[:2] for volume in CONTAINERS["s3"]["volumes"])
    inside = {at for at in mounted.values() if at.startswith("/run/keys")}
    named = (tmp_path / "compose" / "security.toml").read_text()
    assert {word for word in named.split('"') if word.startswith("/")} == inside - {container["s3.config"]}
    assert mounted["./.driftwheel/compose/security.toml"] == "/etc/seaweedfs/security.toml"


@pytest.mark.parametrize("name", [n for n, c in CONTAINERS.items() if "build" in c])
def test_images_of_ours_are_unprivileged_and_locked(name: str) -> None:
    file = (ROOT / CONTAINERS[name]["build"]["dockerfile"]).read_text()
    assert "--require-hashes" in file
    assert "\nUSER 65534:65534" in file
    for line in file.splitlines():
        for lock in [word for word in line.split() if word.endswith(".txt")]:
            assert (ROOT / lock).is_file()


def _has_compose() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not _has_compose(), reason="the docker compose plug-in is not installed")
def test_compose_accepts_the_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "infra", tmp_path / "infra")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    prepare(tmp_path / ".driftwheel" / "compose")
    subprocess.run(["docker", "compose", "config", "--quiet"], cwd=tmp_path, check=True)
