"""How many connections to PostgreSQL one of everything may hold."""

from pathlib import Path

from infra.local.credentials import SERVICES
from shared.contracts.events import CONSUMERS
from shared.delivery.unit_of_work import POOL

ROOT = Path(__file__).parents[3]
RELAY, JOBS, REFRESHER = 2, 4, 1
A_SERVER_S_DEFAULT = 100


def test_one_of_everything_fits_a_server_as_it_is_delivered() -> None:
    reads = sum(len(services) for services in CONSUMERS.values())
    workers = len(list(ROOT.glob("services/*/worker.py")))
    most = len(SERVICES) * (POOL + RELAY) + reads + REFRESHER + workers * (POOL + JOBS)
    assert most < A_SERVER_S_DEFAULT
