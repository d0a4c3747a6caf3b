"""No number that a message says can make the true ones after it look old: in each service that acts on such numbers, with
the registry's own signature, on real PostgreSQL."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from services.data.service import DataService
from services.evaluator.service import EvaluatorService
from services.monitor.service import MonitorService
from services.serving.rollouts import Rollouts
from services.serving.service import ServingService
from services.trainer.service import TrainerService
from shared.artifacts.signing import FileVerifier, Trust
from shared.contracts.events import Event, ModelApproved, ModelDeclared, ModelPromoted
from shared.contracts.policy import Policy
from shared.delivery.handling import Done, Handling, Tries
from shared.delivery.outbox import outgoing
from shared.delivery.schema import upgrade
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from shared.telemetry.metrics import IMPLAUSIBLE
from tests.kit import caused, event_keys
from tests.service.serving.story import approved, promoted

CLOCK = SystemClock()
NONE: Any = None
SERVICES: dict[str, Any] = {
    "data": DataService(NONE, CLOCK),
    "trainer": TrainerService(NONE, CLOCK, ("base", "b" * 64), ("lora",), 1),
    "evaluator": EvaluatorService(CLOCK),
    "serving": ServingService(Rollouts(CLOCK), NONE, CLOCK),
    "monitor": MonitorService(CLOCK),
}
DECLARED = {"monitor": "watched", "serving": "logical_model"}
PROMOTED = {
    "data": "SELECT model_version FROM champion",
    "evaluator": "SELECT version FROM champion",
    "serving": "SELECT champion_version FROM logical_model",
    "monitor": "SELECT model_version FROM promotion ORDER BY sequence DESC LIMIT 1",
}
FORGED = (900_000_000, 2_147_483_647, 10**30)


def declared(revision: int) -> ModelDeclared:
    said = ModelDeclared(model="support", revision=1, policy=Policy(model="support"), actor="ann")
    return said.model_copy(update={"revision": revision})  # as a sender who checks nothing


@pytest.mark.parametrize("service", SERVICES)
async def test_after_a_number_that_cannot_be_true_the_next_true_event_is_acted_on(
    service: str, postgres: Any, tmp_path: Path
) -> None:
    url = postgres.fresh_database(service)
    upgrade(service, url)
    signer, public = event_keys(tmp_path)
    db = Database(service, url, Trust(FileVerifier(public)))
    handling, offsets = Handling(service, db, DeliverySettings()), iter(range(1_000))

    async def says(event: Event, act: Callable[..., Any]) -> str:
        sent = outgoing(event, caused(event), signer=signer)
        now = int(time.time() * 1_000)
        record = ConsumerRecord(
            sent.topic, 0, next(offsets), now, 0, sent.key, sent.body, None, 1, 1, tuple(sent.headers)
        )
        done = await handling.one(record, lambda events, work: act(work, *events), Tries(), lambda _: None)
        assert isinstance(done, Done)
        return done.outcome

    async def believed(query: str) -> Any:
        async with db.unit_of_work() as work:
            return (await work.execute(query)).scalar()

    use_cases = SERVICES[service]
    assert await says(declared(1), use_cases.declare) == "handled"
    for forged in FORGED:
        assert await says(declared(forged), use_cases.declare) == "dead"
    assert await says(declared(2), use_cases.declare) == "handled"
    assert await believed(f"SELECT revision FROM {DECLARED.get(service, 'declared')}") == 2

    if service in PROMOTED:
        counter = IMPLAUSIBLE.labels(service, ModelPromoted.topic)
        before = counter._value.get()
        assert await says(promoted(1, 3), use_cases.promote) == "handled"
        for forged in FORGED:
            message = promoted(7, 4).model_copy(update={"sequence": forged})
            assert await says(message, use_cases.promote) == "dead"
        assert await says(promoted(2, 4), use_cases.promote) == "handled"
        assert await believed(PROMOTED[service]) == 2
        assert counter._value.get() == before + 1, "what the contract allows and cannot be true is alerted"

    if service == "serving":
        for forged in FORGED:
            wrong: list[ModelApproved | ModelPromoted] = [approved(3), promoted(3, 5)]
            for event, act in zip(wrong, (use_cases.approve, use_cases.promote), strict=True):
                message = event.model_copy(update={"model_version": forged})
                assert await says(message, act) == "dead"
        assert await says(approved(3), use_cases.approve) == "handled"
        assert await believed("SELECT state FROM rollout") == "pending", "a true version looks old"
    await db.close()
