"""What a service says of its own backlog is answered by the real database, empty or not."""

from collections.abc import Callable

from shared.contracts.events import TrainingStatus
from shared.delivery.unit_of_work import Database
from shared.operations.backlog import OUTBOX
from shared.operations.pulse import pulse


async def test_the_pulse_of_a_service_counts_what_waits(make_kernel_database: Callable[[], str]) -> None:
    db = Database("data", make_kernel_database())
    async with db.unit_of_work() as work:
        before = await pulse(work, "data")
    async with db.unit_of_work() as work:
        work.emit(TrainingStatus(model="support", state="accepted", run_id="run-1"))
    async with db.unit_of_work() as work:
        after = await pulse(work, "data")
        counted = (await (await (await work.raw()).execute(OUTBOX)).fetchone()) or ()
    await db.close()
    assert before["dead_letters"] == 0
    assert (before["outbox"]["pending"], after["outbox"]["pending"], counted[0]) == (0, 1, 1)
    assert before["mark"] != after["mark"]
