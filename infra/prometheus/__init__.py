"""What Prometheus scrapes: `/metrics` of every service and of the engine.

`prometheus.yml` is the file for containers; the embedded stack writes one with its own ports into its home folder.
"""

from collections.abc import Mapping

import yaml

CONTAINERS = {
    **{name: f"{name}:8080" for name in ("data", "trainer", "evaluator", "registry", "serving", "monitor")},
    "engine": "engine:8000",
}


def config(targets: Mapping[str, str]) -> str:
    """Scrape configuration for these targets, job name → host:port."""
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in targets.items()
    ]
    document = {"global": {"scrape_interval": "5s", "evaluation_interval": "15s"}, "scrape_configs": jobs}
    return yaml.safe_dump(document, sort_keys=False)
