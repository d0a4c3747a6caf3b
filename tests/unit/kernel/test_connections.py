"""How many connections to PostgreSQL one of everything may hold."""

import importlib
from pathlib import Path

from infra.local.credentials import SERVICES
from shared.contracts.topology import CONSUMERS
from shared.delivery.unit_of_work import POOL
from shared.jobs.child import CONNECTIONS

ROOT = Path(__file__).parents[3]
RELAY, JOBS, REFRESHER = 2, 4, 1
A_SERVER_S_DEFAULT = 100


def test_one_of_everything_fits_a_server_as_it_is_delivered() -> None:
    reads = sum(len(services) for services in CONSUMERS.values())
    most = len(SERVICES) * (POOL + RELAY) + reads + REFRESHER
    for file in ROOT.glob("services/*/worker.py"):
        settings = importlib.import_module(f"services.{file.parent.name}.settings").Settings
        children = settings.model_fields["jobs_at_once"].default
        most += CONNECTIONS + JOBS + children * CONNECTIONS
    assert most < A_SERVER_S_DEFAULT
