"""From drift to the next dataset: what was served and corrected, with what was known, once per drift, without leaks."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from services.data.rows import Turn, marks
from services.data.service import BUILD_JOB
from services.data.waker import Waker
from shared.artifacts.corrections import CORRECTIONS, keep, read
from shared.contracts.events import CorrectionRef, Event, LineRef
from shared.contracts.policy import DataPolicy, RetrainGovernor
from tests.kit import caused
from tests.service.data.conftest import (
    MODEL,
    Traffic,
    World,
    drift,
    feedback,
    jsonl,
    promoted,
    questions,
    served,
    until,
)

NEW = [f"New topic {n}?" for n in range(60)]


@pytest.fixture
async def champion(running: World) -> str:
    """The digest of the dataset that the champion was trained on: 60 uploaded rows."""
    await running.declare()
    build = await running.build(await running.upload(jsonl(questions(60))))
    await running.tell(promoted(build["digest"], sequence=1))
    return str(build["digest"])


async def drift_build(world: World, drift_id: str = "drift-1") -> dict[str, Any]:
    (build,) = [build for build in await world.builds() if build["drift_id"] == drift_id]
    return build


async def finished(world: World, drift_id: str = "drift-1") -> dict[str, Any]:
    return await world.end_of((await drift_build(world, drift_id))["id"])


async def all_rows(world: World, digest: str) -> dict[str, list[dict[str, Any]]]:
    return {split: await world.rows(digest, split) for split in ("train", "validation", "test")}


def asked(row: dict[str, Any]) -> str:
    return str(row["messages"][-2]["content"])


async def test_drift_becomes_the_next_generation(running: World, champion: str) -> None:
    answers = await Traffic(running).serve(NEW)
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers))
    await running.tell(drift(champion))
    build = await finished(running)
    assert build["state"] == "ready", build["detail"]
    assert (build["why"], build["parents"], build["generation"]) == ("drift", [champion], 2)
    assert (build["read"], sum(build["rows"].values()), build["dropped"]) == (120, 120, {})
    before, after = await all_rows(running, champion), await all_rows(running, build["digest"])
    for split, rows in after.items():
        assert {asked(row) for row in before[split]} <= {asked(row) for row in rows}
    fresh = [row for rows in after.values() for row in rows if row["source"] == "feedback"]
    assert {row["origin"] for row in fresh} == {answer.answer_id for answer in answers}
    assert {row["messages"][-1]["content"] for row in fresh} == {"new topic"}
    old = [row for rows in after.values() for row in rows if row["source"] == "prior"]
    assert {row["origin"] for row in old} == {champion}
    event = (await running.announced())[-1]
    assert (event["why"], event["drift_id"], event["parents"]) == ("drift", "drift-1", [champion])
    assert event["correlationid"] == running.envelopes["DriftDetected"].correlationid
    manifest = await running.manifest(build["digest"])
    assert manifest.meta["parents"] == [champion]


@pytest.mark.parametrize("order", list(itertools.permutations(["served", "judged", "drifted", "promoted"])))
async def test_events_may_come_in_any_order(world: World, order: tuple[str, ...]) -> None:
    """Whatever comes last completes the wish, and exactly one job is deferred for it."""
    await world.declare()
    answers = await Traffic(world).serve(NEW[:3])
    events: dict[str, Sequence[Event]] = {
        "served": answers,
        "judged": [feedback(answer, "new topic") for answer in answers],
        "drifted": [drift("d" * 64)],
        "promoted": [promoted("d" * 64, sequence=1)],
    }
    for kind in order:
        await world.tell(*events[kind])
    build = await drift_build(world)
    assert build["state"] == "queued"
    assert await world.deferred() == [(BUILD_JOB, build["id"])]


async def test_a_wish_waits_for_corrections_and_for_the_policy(running: World) -> None:
    await running.tell(drift("d" * 64))
    build = await drift_build(running)
    assert (build["state"], "apply" in build["detail"]) == ("waiting", True)
    await running.declare()
    dataset = await running.build(await running.upload(jsonl(questions(60))))
    await running.tell(promoted(dataset["digest"], sequence=1))
    answers = await Traffic(running).serve(NEW[:4])
    await running.tell(*answers, feedback(answers[0], "new topic"), feedback(answers[1]))
    build = await drift_build(running)
    assert (build["state"], "1 of 3" in build["detail"]) == ("waiting", True)
    await running.tell(feedback(answers[2], "new topic"))
    assert "2 of 3" in (await drift_build(running))["detail"]
    await running.tell(feedback(answers[3], "new topic"))
    assert (await finished(running))["state"] == "ready"
    story = running.envelopes["DriftDetected"]
    assert (await running.announced())[-1]["correlationid"] == story.correlationid


async def test_lowering_the_bar_starts_what_waits(running: World, champion: str) -> None:
    answers = await Traffic(running).serve(NEW[:2])
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers), drift(champion))
    assert (await drift_build(running))["state"] == "waiting"
    await running.declare(revision=2, retrain=RetrainGovernor(min_corrected=2, max_rows_per_subject=1))
    assert (await finished(running))["state"] == "ready"


async def test_one_drift_makes_one_dataset_however_often_it_is_told(running: World, champion: str) -> None:
    answers = await Traffic(running).serve(NEW[:5])
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers))
    await running.tell(drift(champion), drift(champion), drift(champion))
    await finished(running)
    await running.tell(drift(champion), *answers, *(feedback(answer, "new topic") for answer in answers))
    assert len(await running.builds()) == 2
    assert [event["why"] for event in await running.announced()] == ["upload", "drift"]


@pytest.mark.parametrize("verdict", ["label", "watch"])
async def test_other_verdicts_are_only_recorded(world: World, verdict: str) -> None:
    await world.declare()
    answers = await Traffic(world).serve(NEW[:5])
    await world.tell(*answers, *(feedback(answer, "new topic") for answer in answers))
    await world.tell(drift("d" * 64, verdict=verdict))
    assert not await world.builds()


async def test_feedback_is_used_once_along_a_line_of_datasets(running: World, champion: str) -> None:
    """What generation 2 has learned does not start generation 3; a rollback to generation 1 makes it new again."""
    answers = await Traffic(running).serve(NEW[:5])
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers), drift(champion))
    second = (await finished(running))["digest"]
    await running.tell(promoted(second, sequence=2, version=2), drift(second, "drift-2"))
    assert (await drift_build(running, "drift-2"))["state"] == "waiting"
    more = await Traffic(running).serve(NEW[5:9], prefix="b")
    await running.tell(*more, *(feedback(answer, "new topic") for answer in more))
    build = await finished(running, "drift-2")
    assert (build["generation"], build["parents"], sum(build["rows"].values())) == (3, [second], 69)
    await running.tell(promoted(build["digest"], sequence=3, version=3), drift(build["digest"], "drift-3"))
    assert "0 of 3" in (await drift_build(running, "drift-3"))["detail"]
    await running.tell(promoted(champion, sequence=4), promoted(second, sequence=2, version=2))
    third = await finished(running, "drift-3")
    assert (third["parents"], third["generation"], sum(third["rows"].values())) == ([champion], 2, 69)
    await running.tell(drift(champion, "drift-4"))
    assert (await finished(running, "drift-4"))["digest"] == third["digest"]
    assert [event["drift_id"] for event in await running.announced()] == [
        None,
        "drift-1",
        "drift-2",
        "drift-3",
    ]


async def test_five_generations_never_train_on_a_test_row(running: World, champion: str) -> None:
    parent, tests = champion, set[str]()
    for generation in range(2, 7):
        for row in await running.rows(parent, "test"):
            tests.add(asked(row).casefold())
        prompts = [asked(row).upper() for row in await running.rows(parent, "test")]
        prompts += [f"Generation {generation} asks {n}" for n in range(30)]
        answers = await Traffic(running).serve(prompts, prefix=f"g{generation}")
        await running.tell(*answers, *(feedback(answer, f"answer {generation}") for answer in answers))
        await running.tell(drift(parent, f"drift-{generation}"))
        build = await finished(running, f"drift-{generation}")
        assert build["state"] == "ready", build["detail"]
        assert build["generation"] == generation
        assert build["dropped"]["conflicting_answer"] > 0
        parent = build["digest"]
        trained = {
            asked(row).casefold()
            for split in ("train", "validation")
            for row in await running.rows(parent, split)
        }
        assert not trained & tests
        await running.tell(promoted(parent, sequence=generation, version=generation))


async def test_corrections_win_and_the_newest_of_them_first(running: World, champion: str) -> None:
    known = "Question number 1?"
    answers = await Traffic(running).serve([known, known, *NEW[:3]])
    await running.tell(*answers, feedback(answers[0], "older"), feedback(answers[1], "newer"))
    await running.tell(feedback(answers[1], feedback_id="f-late"))
    await running.tell(*(feedback(answer, "new topic") for answer in answers[2:]), drift(champion))
    build = await finished(running)
    rows = [
        row
        for rows in (await all_rows(running, build["digest"])).values()
        for row in rows
        if asked(row) == known
    ]
    assert [(row["messages"][-1]["content"], row["origin"]) for row in rows] == [
        ("newer", answers[1].answer_id)
    ]
    assert build["dropped"] == {"conflicting_answer": 2}


async def test_approved_answers_of_our_own_are_capped_and_never_held_out(
    running: World, champion: str
) -> None:
    await running.declare(revision=2, data=DataPolicy(min_rows=10, max_own_share=0.1))
    answers = await Traffic(running).serve(NEW, answer="our answer")
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers[:5]))
    await running.tell(*(feedback(answer) for answer in answers[5:]), drift(champion))
    build = await finished(running)
    rows = await all_rows(running, build["digest"])
    own = {split: [row for row in found if row["label"] == "model"] for split, found in rows.items()}
    assert not own["validation"]
    assert not own["test"]
    assert 0 < len(own["train"]) <= 0.1 * len(rows["train"])
    assert (
        len(own["train"]) + build["dropped"]["own_answer_cap"] + build["dropped"]["own_answer_held_out"] == 55
    )


async def test_a_disputed_or_failed_answer_of_our_own_teaches_nothing(running: World, champion: str) -> None:
    answers = await Traffic(running).serve(NEW[:8])
    disputed, failed, *rest = answers
    failed = failed.model_copy(update={"outcome": "error"})
    await running.tell(disputed, failed, *rest, feedback(disputed), feedback(failed))
    await running.tell(feedback(disputed, score=0.0, feedback_id="f-second-thought"))
    await running.tell(*(feedback(answer, "new topic") for answer in rest), drift(champion))
    rows = await all_rows(running, (await finished(running))["digest"])
    origins = {row["origin"] for found in rows.values() for row in found}
    assert not origins & {disputed.answer_id, failed.answer_id}


async def test_one_author_cannot_flood_the_dataset(running: World, champion: str) -> None:
    governor = RetrainGovernor(min_corrected=5, max_rows_per_subject=0.5)
    await running.declare(revision=2, retrain=governor)
    answers = await Traffic(running).serve(NEW)
    await running.tell(*answers, drift(champion))
    await running.tell(*(feedback(answer, "poison", actor="mallory") for answer in answers[:50]))
    build = await drift_build(running)
    assert (build["state"], "0 of 5" in build["detail"]) == ("waiting", True)
    others = [feedback(answer, "honest", actor=f"agent-{n % 3}") for n, answer in enumerate(answers[50:53])]
    await running.tell(*others)
    build = await finished(running)
    assert build["dropped"]["author_cap"] == 47
    rows = await all_rows(running, build["digest"])
    said = [
        row["messages"][-1]["content"]
        for found in rows.values()
        for row in found
        if row["source"] == "feedback"
    ]
    assert (said.count("poison"), said.count("honest")) == (3, 3)


async def test_a_text_that_is_missing_or_says_another_answer_is_counted(
    running: World, champion: str
) -> None:
    answers = await Traffic(running).serve(NEW[:6])
    text = answers[0].text
    assert text is not None
    lost = served("lost-1", "no/such/object.jsonl", 0)
    beyond = served("lost-2", text.key, 1_000)
    swapped = served("lost-3", text.key, 2)
    elsewhere = served("lost-4", text.key, 0, text=LineRef(bucket="uploads", key=text.key, line=0))
    untold = served("lost-5", text.key, 0, text=None)
    foreign = answers[5].model_copy(update={"model": "other"})
    await running.tell(*answers[:5], lost, beyond, swapped, elsewhere, untold, foreign)
    judged = [*answers, lost, beyond, swapped, elsewhere, untold]
    await running.tell(*(feedback(answer, "new topic") for answer in judged), drift(champion))
    build = await finished(running)
    assert build["dropped"] == {"text_missing": 3}
    rows = await all_rows(running, build["digest"])
    fresh = [row for found in rows.values() for row in found if row["source"] == "feedback"]
    assert {row["origin"] for row in fresh} == {answer.answer_id for answer in answers[:5]}


async def test_hostile_texts_are_dropped_with_a_reason(running: World, champion: str) -> None:
    texts: list[dict[str, Any]] = [
        {"messages": "no list", "answer": "a"},
        {"messages": [{"role": "user", "content": None}], "answer": "a"},
        {"messages": [{"role": "user", "content": "x<|im_end|>"}], "answer": "a"},
        {"messages": [{"role": "assistant", "content": "I start"}], "answer": "a"},
        {"messages": [], "answer": "a"},
        {"answer": "a"},
    ]
    lines = [{"answer_id": f"h-{n}", **line} for n, line in enumerate(texts)]
    await running.prediction_log.put(
        "predictions", "hostile.jsonl", jsonl(lines) + b"not json\n" + b"[" * 100_000 + b"\n"
    )
    answers = [served(f"h-{n}", "hostile.jsonl", n) for n in range(8)]
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers), drift(champion))
    build = await finished(running)
    assert build["state"] == "ready", build["detail"]
    assert build["dropped"] == {"unknown_shape": 3, "control_token": 1, "wrong_role": 2, "text_missing": 2}


async def test_a_missing_parent_fails_the_wish_with_what_to_do(running: World) -> None:
    await running.declare()
    answers = await Traffic(running).serve(NEW[:3])
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers), drift("d" * 64))
    build = await finished(running)
    assert build["state"] == "failed"
    assert "dddddd" in build["detail"]


@pytest.mark.parametrize("first", ["drift", "label"])
async def test_events_that_arrive_together_do_not_miss_each_other(world: World, first: str) -> None:
    """A transaction sees only what is committed; whatever the order, the next look sees both."""
    await world.declare()
    answers = await Traffic(world).serve(NEW[:3])
    await world.tell(*answers, feedback(answers[0], "new topic"))
    if first == "drift":
        await world.tell(feedback(answers[1], "new topic"))
    else:
        await world.tell(drift("d" * 64))
    async with world.db.unit_of_work() as uncommitted:
        if first == "drift":
            await world.service.drifted(uncommitted, drift("d" * 64))
        else:
            await world.service.judged(uncommitted, [feedback(answers[1], "new topic")])
        other = asyncio.create_task(world.tell(feedback(answers[2], "new topic")))
        await until(lambda: blocked_or_done(world, other))
    await other
    await Waker(world.db, world.service, seconds=1).look()
    build = await drift_build(world)
    assert build["state"] == "queued", build["detail"]
    assert len(await world.deferred()) == 1


async def blocked_or_done(world: World, task: "asyncio.Task[None]") -> bool:
    async with world.db.unit_of_work() as work:
        waits = await work.session.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        return task.done() or bool(waits.scalar())


async def test_a_split_follows_the_prompt_even_from_another_system_message(
    running: World, champion: str
) -> None:
    held_out = asked((await running.rows(champion, "test"))[0])
    lines = [
        {
            "answer_id": f"s-{n}",
            "messages": [
                {"role": "system", "content": f"You are number {n}."},
                {"role": "user", "content": held_out},
            ],
            "answer": "a",
        }
        for n in range(4)
    ]
    await running.prediction_log.put("predictions", "system.jsonl", jsonl(lines))
    answers = [served(f"s-{n}", "system.jsonl", n) for n in range(4)]
    await running.tell(
        *answers, *(feedback(answer, f"answer {n}") for n, answer in enumerate(answers)), drift(champion)
    )
    rows = await all_rows(running, (await finished(running))["digest"])
    assert sum(asked(row) == held_out for row in rows["test"]) == 5
    assert marks([Turn("user", held_out), Turn("assistant", "x")]).split == "test"


async def test_builds_are_listed_by_model(running: World, champion: str) -> None:
    assert [build["digest"] for build in await running.builds()] == [champion]
    assert (await running.http.get("/datasets", params={"model": "another"})).json()["datasets"] == []


async def test_what_people_say_looks_at_no_history_while_a_retraining_waits(world: World) -> None:
    """The cost of an event must not grow with the labels there are: only the timer counts them."""
    await world.declare(retrain=RetrainGovernor(min_corrected=50, max_rows_per_subject=1))
    traffic = Traffic(world)
    answers = await traffic.serve([f"prompt {n}" for n in range(20)])
    await world.tell(*answers, drift("d" * 64))
    looked: list[str] = []
    original = world.service.wake

    async def watched(work: Any, model: str) -> None:
        looked.append(model)
        await original(work, model)

    world.service.wake = watched  # type: ignore[method-assign]
    async with world.db.unit_of_work(caused(answers[0])) as work:
        await world.service.judged(work, [feedback(answers[0], "better")])
        await world.service.served(work, answers)
    assert looked == []
    await Waker(world.db, world.service, seconds=1).look()
    assert looked == [MODEL]


async def test_a_newer_drift_takes_the_place_of_one_that_waits(world: World) -> None:
    await world.declare(retrain=RetrainGovernor(min_corrected=50, max_rows_per_subject=1))
    await world.tell(drift("d" * 64, "drift-1"), drift("d" * 64, "drift-2"))
    newest, older = await world.builds()
    assert (newest["state"], older["state"]) == ("waiting", "superseded")
    assert "drift-2" in older["detail"]


async def test_a_correction_is_read_by_reference_and_one_that_is_gone_is_left_out(
    running: World, champion: str
) -> None:
    answers = await Traffic(running).serve(NEW)
    texts = {f"f-{answer.answer_id}": "by reference" for answer in answers}
    refs = await keep(running.prediction_log, texts)
    await running.tell(
        *answers,
        *(feedback(answer, correction=refs[f"f-{answer.answer_id}"], score=0.0) for answer in answers),
    )
    gone = refs[f"f-{answers[0].answer_id}"]
    await running.prediction_log.delete(CORRECTIONS, gone.key)
    altered = refs[f"f-{answers[1].answer_id}"]
    await running.prediction_log.put(CORRECTIONS, altered.key, b'{"corrected": "altered"}')
    await running.tell(drift(champion))
    build = await finished(running)
    assert build["state"] == "ready", build["detail"]
    assert build["dropped"] == {"text_missing": 2}
    fresh = [
        r
        for rows in (await all_rows(running, build["digest"])).values()
        for r in rows
        if r["source"] == "feedback"
    ]
    assert {row["messages"][-1]["content"] for row in fresh} == {"by reference"}
    assert {row["label"] for row in fresh} == {"human"}
    assert len(fresh) == 58


async def test_a_correction_inside_a_foreign_event_is_moved_to_the_store(world: World) -> None:
    await world.declare()
    (answer,) = await Traffic(world).serve(NEW[:1])
    for said in ("my card number is 4000 1234", "changed my mind"):
        await world.tell(feedback(answer, said))
    async with world.db.unit_of_work() as work:
        rows = (await work.execute("SELECT corrected, correction FROM feedback")).all()
        told = (await work.execute("SELECT to_jsonb(feedback)::text FROM feedback")).scalar_one()
    [(inline, ref)] = rows
    assert inline is None
    assert "4000" not in told
    found = await read(world.objects, [CorrectionRef.model_validate(ref)])
    assert list(found.values()) == ["my card number is 4000 1234"], "of one id the first counts"
    body = {"model": MODEL, "subject": "agent-1", "answers": []}
    assert (await world.http.post("/subjects/erase", json=body)).json()["rows"] == 1
    assert await read(world.objects, [CorrectionRef.model_validate(ref)]) == {}


async def test_what_was_taken_back_is_in_no_dataset_made_afterwards(running: World, champion: str) -> None:
    """Not by its own row, and not by way of the dataset that is built upon."""
    answers = await Traffic(running).serve(NEW)
    await running.tell(*answers, *(feedback(answer, "new topic") for answer in answers))
    await running.tell(drift(champion))
    first = await finished(running)
    assert first["state"] == "ready", first["detail"]
    mine = [answers[0].answer_id, answers[1].answer_id]
    body = {"model": MODEL, "subject": "ann", "answers": mine}
    done = (await running.http.post("/subjects/erase", json=body)).json()
    assert done == {"rows": 4, "datasets": [first["digest"]]}
    again = (await running.http.post("/subjects/erase", json=body)).json()
    assert again["datasets"] == [first["digest"]]

    await running.tell(promoted(first["digest"], sequence=2, version=2))
    later = await Traffic(running).serve(
        ["Something else 1?", "Something else 2?", "Something else 3?"], prefix="b"
    )
    await running.tell(*later, *(feedback(answer, "other") for answer in later))
    await running.tell(drift(first["digest"], "drift-2"))
    second = await finished(running, "drift-2")
    assert second["state"] == "ready", second["detail"]
    assert second["dropped"] == {"erased": 2}
    prompts = {asked(row) for rows in (await all_rows(running, second["digest"])).values() for row in rows}
    assert not {NEW[0], NEW[1]} & prompts
    assert NEW[2] in prompts
    assert NEW[0] not in str(second["rejects"])
    async with running.db.unit_of_work() as work:
        rows = await work.execute("SELECT asked_by, rows FROM erasure ORDER BY at, id")
        assert [row.asked_by for row in rows] == ["tester", "tester"]
