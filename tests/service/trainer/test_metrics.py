"""What Prometheus sees of runs: only those in hand, so that the label `run` stays bounded."""

from prometheus_client import REGISTRY

from services.trainer.domain import Run
from services.trainer.metrics import RunProgress
from tests.service.trainer.conftest import MODEL, World


def shown(name: str, run_id: str) -> float | None:
    return REGISTRY.get_sample_value(f"driftwheel_trainer_run_{name}", {"model": MODEL, "run": run_id})


async def put(world: World, run_id: str, **values: object) -> None:
    async with world.db.unit_of_work() as work:
        run = await work.session.get(Run, run_id)
        assert run is not None
        run.sqlmodel_update(values)


async def test_a_run_is_shown_while_a_worker_has_it(world: World) -> None:
    run_id, progress = await world.queued(), RunProgress(world.db)
    await progress.measure()
    assert shown("step", run_id) is None

    await put(world, run_id, state="running")
    await progress.measure()
    assert (shown("step", run_id), shown("steps", run_id), shown("loss", run_id)) == (0, 0, None)

    await put(world, run_id, step=7, total_steps=12, loss=0.5)
    await progress.measure()
    assert (shown("step", run_id), shown("steps", run_id), shown("loss", run_id)) == (7, 12, 0.5)

    await put(world, run_id, state="succeeded")
    await progress.measure()
    assert (shown("step", run_id), shown("steps", run_id), shown("loss", run_id)) == (None, None, None)
