"""Alerts, their pages and the dashboard are whole and name what exists; metrics are checked on a real scrape elsewhere."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from infra import prometheus
from tests.commands import commands_in, fault
from tests.promql import FROM_PROMETHEUS, Vocabulary

ROOT = Path(__file__).parents[3]
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(prometheus.ALERTS.read_text())["groups"] for rule in group["rules"]
]
PAGES = {page.stem: page.read_text() for page in (ROOT / "infra" / "runbooks").glob("*.md")}
DASHBOARD = json.loads((ROOT / "infra" / "grafana" / "driftwheel.json").read_text())
HEADINGS = ["What users see", "Look", "Mend", "Over when"]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_how_bad_it_is_and_where_its_page_is(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"infra/runbooks/{rule['alert']}.md"
    promql_parser.parse(rule["expr"])


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    assert set(names) == set(PAGES)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_has_its_parts_and_refers_to_pages_that_exist(name: str) -> None:
    text = PAGES[name]
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert set(re.findall(r"\*\*([A-Z][a-zA-Z]+)\*\*", text)) <= set(PAGES)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_commands_of_a_page_exist(name: str) -> None:
    for command in commands_in(PAGES[name]):
        assert not fault(command)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_settings_of_a_page_exist(name: str) -> None:
    for service, field in re.findall(r"DRIFTWHEEL_([A-Z]+)__([A-Z_]+)", PAGES[name]):
        settings = importlib.import_module(f"services.{service.lower()}.settings").Settings
        assert field.lower() in settings.model_fields


def test_prometheus_reads_the_alerts_in_containers_and_beside_the_embedded_stack() -> None:
    inside = yaml.safe_load(prometheus.config(prometheus.CONTAINERS))
    assert inside["rule_files"] == ["alerts.yml"]
    beside = yaml.safe_load(prometheus.config({}, str(prometheus.ALERTS)))
    assert Path(beside["rule_files"][0]).is_file()


def test_the_dashboard_is_provisioned_and_takes_its_data_source_from_a_variable() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    assert compose["profiles"] == ["dashboard"]
    mounts = dict(volume.split(":")[:2] for volume in compose["volumes"])
    for source in mounts:
        assert (ROOT / source).exists()
    provider = yaml.safe_load((ROOT / "infra/grafana/provisioning/dashboards/driftwheel.yml").read_text())[
        "providers"
    ][0]
    shown = mounts["./infra/grafana/driftwheel.json"]
    assert str(Path(shown).parent) == provider["options"]["path"]
    assert compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == shown
    source = yaml.safe_load((ROOT / "infra/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    uids = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if panel["type"] != "row"}
    assert uids == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


THERE_ARE = Vocabulary(
    {"a_total": frozenset({"x"}), "b": frozenset({"x", "y"}), "c_bucket": frozenset({"le"})}
)


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("a_total", {"x"} | FROM_PROMETHEUS),
        ("sum by (x) (rate(a_total[5m])) > 1", {"x"}),
        ("sum(a_total)", set()),
        ("max without (x, job, instance) (b)", {"y"}),
        ("histogram_quantile(0.9, sum by (le) (rate(c_bucket[5m])))", set()),
        ("max by (x) (b) unless on (x) max by (x, y) (b) > 0", {"x"}),
        ("sum by (x) (b) / scalar(sum(b))", {"x"}),
        ('up{job="data"} == 0', FROM_PROMETHEUS),
    ],
)
def test_the_labels_of_a_result_are_known(expression: str, labels: set[str]) -> None:
    assert THERE_ARE.labels(expression) == labels


@pytest.mark.parametrize(
    "expression",
    [
        "nowhere",
        'a_total{z="1"}',
        "sum by (y) (a_total)",
        "rate(b[5m])",
        "histogram_quantile(0.9, rate(a_total[5m]))",
        "a_total / b",
        "max by (x) (b) unless on (y) b",
    ],
)
def test_what_does_not_exist_is_found(expression: str) -> None:
    with pytest.raises(AssertionError):
        THERE_ARE.labels(expression)
