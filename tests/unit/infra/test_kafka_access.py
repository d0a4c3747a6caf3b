"""The access list of Kafka as people see it: for the tool of their own cluster, and under their own names."""

import json
import sys

import pytest

from infra.kafka import access
from infra.kafka.access import Grant


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["access", *arguments])
    access.main()
    return capsys.readouterr().out


def test_the_list_is_printed_for_kafka_s_own_tool(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTWHEEL_KAFKA_BOOTSTRAP", "k:9093")
    monkeypatch.setenv("DRIFTWHEEL_KAFKA_USERNAME", "root")
    monkeypatch.setenv("DRIFTWHEEL_KAFKA_PASSWORD", "hidden-word")
    lines = printed(capsys, monkeypatch, "--print", "--user", "data=sa-17", "--foreign", "crm").splitlines()
    assert len(lines) == len(access.grants(["crm"]))
    start = (
        "kafka-acls.sh --bootstrap-server k:9093 --command-config admin.properties --add --allow-principal"
    )
    assert f"{start} User:sa-17 --operation Write --topic dataset.ready" in lines
    assert f"{start} User:sa-17 --operation Read --group data. --resource-pattern-type prefixed" in lines
    assert f"{start} User:crm --operation Write --topic training.requested" in lines
    assert not any("hidden-word" in line or "User:data " in line for line in lines)


def test_the_list_as_json_names_roles_and_principals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(printed(capsys, monkeypatch, "--json", "--user", "registry=r"))
    assert {row["principal"] for row in rows if row["role"] == "registry"} == {"User:r"}
    assert {row["role"] for row in rows} == {*access.SERVICES, access.READER, access.FOREIGN}


@pytest.mark.parametrize("name", ["data", "console", "admin", "broker"])
def test_a_foreign_producer_takes_no_name_of_the_platform(name: str) -> None:
    with pytest.raises(ValueError, match="another one"):
        access.grants([name])


def test_reading_and_writing_imply_seeing_and_a_prefix_covers_what_begins_with_it() -> None:
    grant = Grant("data", "Read", "group", "data.", "prefixed")
    assert grant.allows("Read", "group", "data.feedback.recorded")
    assert grant.allows("Describe", "group", "data.x")
    assert not grant.allows("Write", "group", "data.x")
    assert not grant.allows("Read", "group", "database")
    assert not grant.allows("Read", "topic", "data.x")


def test_what_comes_with_a_service_is_in_groups_and_topics_of_its_own_name() -> None:
    for grant in access.grants():
        if grant.kind == "group" and grant.operation == "Read":
            assert (grant.name, grant.pattern) == (f"{grant.role}.", "prefixed")
        if grant.pattern == "prefixed" and grant.kind == "topic":
            assert (grant.role, grant.name) == ("trainer", "replies.")
