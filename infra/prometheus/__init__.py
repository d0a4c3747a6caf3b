"""What Prometheus scrapes: `/metrics` of every service and of the engine; what it alerts on is in `alerts.yml`.

`prometheus.yml` is the file for containers; the embedded stack writes one with its own ports into its home folder.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

ALERTS = Path(__file__).with_name("alerts.yml")

SCRAPED = ("data", "trainer", "evaluator", "registry", "serving", "monitor", "console")
CONTAINERS = {
    **{name: f"{name}:8080" for name in SCRAPED},
    "engine": "engine:8000",
}


def config(targets: Mapping[str, str], alerts: str = ALERTS.name) -> str:
    """Configuration for these targets, job name → host:port.

    Args:
        alerts: path of the rules, relative to the file that holds this text.
    """
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in targets.items()
    ]
    document = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "15s"},
        "rule_files": [alerts],
        "scrape_configs": jobs,
    }
    return yaml.safe_dump(document, sort_keys=False)
