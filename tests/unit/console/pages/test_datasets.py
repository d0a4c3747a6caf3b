"""Pages of datasets, drawn from documents that the data service's own view functions make."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.console.figures import bins, funnel
from services.data.api import build_view, provenance_view
from services.data.domain import Build, Drift, Provenance, UploadedFile
from services.data.lengths import Lengths
from services.data.rows import Kept, Row, Turn
from tests.unit.console.pages.conftest import Browser, Door

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID, DIGEST, PARENT = "build-" + "1" * 24, "d" * 64, "e" * 64
HOSTILE = '"><script>alert(1)</script>'


class Tokens:
    def count(self, messages: Any) -> int:
        return len(messages)


def lengths() -> dict[str, Any]:
    measured = Lengths(Tokens())
    row = Row([Turn("user", "x" * 44), Turn("assistant", "y")], "upload", "o")
    list(measured.watch([Kept(row, "train", "a:1")] * 90))
    return measured.view()


def build(**changes: Any) -> Build:
    values: dict[str, Any] = {
        "id": ID,
        "model": "support",
        "why": "drift",
        "state": "ready",
        "digest": DIGEST,
        "generation": 2,
        "parents": [PARENT],
        "drift_id": "drift-1",
        "read": 100,
        "rows": {"train": 72, "validation": 9, "test": 9},
        "dropped": {"duplicate": 3, "too_long": 7},
        "rejects": [{"reason": "too_long", "place": "rows.jsonl:7", "excerpt": HOSTILE}],
        "lengths": lengths(),
        "cause": {"correlationid": "story-1"},
        "created_by": "ann",
        "created_at": NOON,
        "finished_at": NOON + timedelta(seconds=7),
    }
    return Build(**values | changes)


def document(one: Build) -> dict[str, Any]:
    file = UploadedFile(
        id="file-1",
        filename=HOSTILE,
        bytes=1_200,
        purpose="fine-tune",
        sha256="f" * 64,
        created_by="ann",
        created_at=NOON,
    )
    drift = Drift(
        drift_id="drift-1",
        model="support",
        verdict="retrain",
        dataset_digest=PARENT,
        severity=0.93,
        received_at=NOON,
    )
    return {**build_view(one), **provenance_view(one, Provenance([file], drift))}


def listed(*builds: Build, has_more: bool = False) -> dict[str, Any]:
    views = [build_view(one, "rejects", "lengths") for one in builds]
    return {"datasets": views, "has_more": has_more}


DIFF = {
    "digest": DIGEST,
    "against": PARENT,
    "state": "done",
    "added": {"train": 21, "validation": 2, "test": 2},
    "removed": {"train": 0, "validation": 0, "test": 0},
    "kept": {"train": 50, "validation": 7, "test": 7},
    "changed_answer": {"train": 1, "validation": 0, "test": 0},
    "changed_split": 0,
    "new_answers": {"number": 1, "examples": [{"answer": HOSTILE, "rows": 31, "split": "train"}]},
    "gone_answers": {"number": 0, "examples": []},
}


@pytest.fixture
def shown(door: Door) -> Door:
    door.says["data", f"/datasets/{ID}"] = document(build())
    door.says["data", "/datasets"] = listed(
        build(), build(id="build-" + "2" * 24, digest=PARENT, generation=1)
    )
    door.says["trainer", "/runs"] = {"runs": [], "has_more": False}
    return door


def test_the_list_is_filtered_by_the_service_and_goes_on(browser: Browser, door: Door) -> None:
    waiting = build(
        id="build-" + "2" * 24, state="waiting", digest=None, rows={}, read=0, dropped={}, detail=HOSTILE
    )
    door.says["data", "/datasets"] = listed(build(), waiting, has_more=True)
    text = browser.sees("/datasets?model=support&state=ready&after=build-9")
    (asked,) = [one for one in door.asked if one[2] == "/datasets"]
    assert asked[3] == {"model": "support", "state": "ready", "after": "build-9", "limit": "50"}
    assert f'href="/datasets/{ID}"' in text
    assert "10 (10 %)" in text
    assert f"/datasets?model=support&amp;state=ready&amp;after={waiting.id}" in text
    assert "driftwheel datasets list --model support" in text
    assert "<script>alert" not in text


def test_a_command_to_copy_is_quoted_for_the_shell(browser: Browser, door: Door) -> None:
    door.says["data", "/datasets"] = 422
    text = browser.sees("/datasets?model=x;rm+-rf+~")
    assert "--model &#39;x;rm -rf ~&#39;" in text
    assert "data said 422" in text


def test_no_dataset_says_how_to_make_one(browser: Browser, door: Door) -> None:
    door.says["data", "/datasets"] = listed()
    assert "driftwheel datasets upload MODEL FILE" in browser.sees("/datasets")
    assert "No dataset matches" in browser.sees("/datasets?state=failed")


def test_a_dataset_shows_what_became_of_every_row(browser: Browser, shown: Door) -> None:
    text = browser.sees(f"/datasets/{ID}")
    for part in ("90.0 %", "more characters than data.max_chars", "7.0 %", "rows.jsonl:7"):
        assert part in text
    assert "41 to 60: 90" in text, "the histogram"
    assert f"datasets/sha256/{DIGEST}/" in text
    assert f'href="/datasets/{PARENT}"' in text
    assert f'href="/trace/{DIGEST}"' in text
    assert 'href="/trace/drift-1"' in text
    assert "No run yet" in text
    assert "<script>alert" not in text
    (runs,) = [one for one in shown.asked if one[2] == "/runs"]
    assert runs[3] == {"model": "support", "dataset": DIGEST, "limit": "20"}


def test_the_funnel_accounts_for_every_row() -> None:
    steps = funnel(build_view(build()))
    assert [(step.name, step.rows) for step in steps] == [("kept", 90), ("too_long", 7), ("duplicate", 3)]
    assert sum(step.share for step in steps) == pytest.approx(1)
    assert funnel(build_view(build(read=0, rows={}, dropped={})))[0].share == 0


def test_a_histogram_loses_only_its_empty_ends() -> None:
    measured = {"edges": [10, 20, 30, 40], "counts": [0, 5, 0, 2, 0], "rows": 7, "mean": 20, "longest": 33}
    found = bins(measured)
    assert found is not None
    assert (found.counts, found.labels) == ([5, 0, 2], ["11 to 20", "21 to 30", "31 to 40"])
    beyond = bins({**measured, "counts": [0, 0, 0, 0, 1]})
    assert beyond is not None
    assert beyond.labels == ["over 40"]
    assert bins({}) is bins(None) is bins({**measured, "rows": 0}) is None


def test_another_version_is_compared_by_the_data_service(browser: Browser, shown: Door) -> None:
    shown.says["data", f"/datasets/{ID}/diff"] = DIFF
    text = browser.sees(f"/datasets/{ID}?against={PARENT}")
    (asked,) = [one for one in shown.asked if one[2].endswith("/diff")]
    assert asked[3] == {"against": PARENT}
    assert ">25<" in text
    assert "Answers that are new: 1" in text
    assert "Rows moved" not in text
    assert "<script>alert" not in text
    shown.says["data", f"/datasets/{ID}/diff"] = {**DIFF, "changed_split": 2}
    assert "Rows moved from one split to another" in browser.sees(f"/datasets/{ID}?against={PARENT}")


def test_a_comparison_that_takes_long_or_is_refused_says_so(browser: Browser, shown: Door) -> None:
    shown.says["data", f"/datasets/{ID}/diff"] = {"digest": DIGEST, "against": PARENT, "state": "comparing"}
    assert "are being compared" in browser.sees(f"/datasets/{ID}?against={PARENT}")
    shown.says["data", f"/datasets/{ID}/diff"] = 409
    text = browser.sees(f"/datasets/{ID}?against={PARENT}")
    assert "data said 409" in text
    assert "What became of the rows" in text


def test_a_build_in_progress_has_nothing_to_compare(browser: Browser, door: Door) -> None:
    young = build(
        state="running", digest=None, read=0, rows={}, dropped={}, lengths={}, finished_at=None, rejects=[]
    )
    door.says["data", f"/datasets/{ID}"] = document(young)
    text = browser.sees(f"/datasets/{ID}?against={PARENT}")
    assert "Once the dataset is ready" in text
    assert "Nothing has been read yet" in text
    assert {service for _, service, *_ in door.asked} == {"data"}


def test_each_service_that_is_away_takes_only_its_part(browser: Browser, shown: Door) -> None:
    shown.says["trainer", "/runs"] = None
    text = browser.sees(f"/datasets/{ID}")
    assert "trainer does not answer" in text
    assert "Where it comes from" in text
    shown.says["data", f"/datasets/{ID}"] = None
    assert "data does not answer" in browser.sees(f"/datasets/{ID}")


def test_an_unknown_dataset_is_not_found_and_stays_one_segment(browser: Browser, door: Door) -> None:
    assert "data said 404" in browser.sees("/datasets/x%3Flimit=1%26y", 404)
    ((_, service, path, params, _),) = door.asked
    assert (service, path, params) == ("data", "/datasets/x?limit=1&y", {})


def test_who_may_not_see_runs_is_not_shown_them(browser: Browser, shown: Door) -> None:
    browser.signs_in("data:read")
    assert "Trained on it" not in browser.sees(f"/datasets/{ID}")
    browser.signs_in("run:read")
    browser.sees("/datasets", 403)


def test_a_queued_build_says_what_is_ahead_and_can_be_cancelled(browser: Browser, door: Door) -> None:
    path = f"/datasets/{ID}"
    queued = build(state="queued", digest=None, finished_at=None)
    door.says["data", path] = {**document(queued), "ahead": {"jobs": 2, "model": HOSTILE, "key": "build-9"}}
    text = browser.sees(path)
    assert "queued behind 2 jobs, next ahead: " in text
    assert HOSTILE not in text
    assert f'action="{path}/cancel"' in text
    for said, told in (
        (build_view(build(state="cancelled")), "Cancelled."),
        (409, "Not%20cancelled%3A%20data%20said%20409"),
    ):
        door.says["data", f"{path}/cancel"] = said
        answer = browser.sends(f"{path}/cancel")
        assert answer.status_code == 303
        assert told in answer.headers["location"]
    assert door.asked[-1][:3] == ("POST", "data", f"{path}/cancel")
    browser.signs_in("data:read")
    assert "/cancel" not in browser.sees(path)
    assert browser.sends(f"{path}/cancel").status_code == 403
