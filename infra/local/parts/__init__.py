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

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Kafka(),
        Postgres(),
        Store(),
        Engine(),
        *(Service(name) for name in SERVICES),
        Worker("trainer"),
        Worker("evaluator"),
        Console(),
        FrontDoor(),
    )
}
