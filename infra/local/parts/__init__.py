"""The parts there are, by name, in the order they are listed to people."""

from infra.local.credentials import SERVICES
from infra.local.part import Part
from infra.local.parts.caddy import FrontDoor
from infra.local.parts.console import Console
from infra.local.parts.engine import Engine
from infra.local.parts.kafka import Kafka
from infra.local.parts.postgres import Postgres
from infra.local.parts.s3 import Store
from infra.local.parts.service import Service, Worker


def parts_of(replicas: int) -> dict[str, Part]:
    """The parts of a stack in which each service and each worker runs this many times."""
    several = range(1, replicas + 1)
    made: tuple[Part, ...] = (
        Kafka(),
        Postgres(),
        Store(),
        Engine(),
        *(Service(name, number) for name in SERVICES for number in several),
        *(Worker(name, number) for name in WORKERS for number in several),
        Console(),
        FrontDoor(replicas),
    )
    return {part.name: part for part in made}


WORKERS = ("data", "trainer", "evaluator")
PARTS = parts_of(1)
