"""When too many messages die: by run, by share, for each source alone."""

from datetime import UTC, datetime, timedelta

from shared.delivery.limits import DeadLetters, Limit, Quota

LIMIT = Limit(run=5, ratio=0.5, window=20)


def first_too_many(deaths: DeadLetters, outcomes: str, source: str = "/s") -> int | None:
    """Place in `outcomes` (x dies, . is handled) of the death that is one too many."""
    for place, outcome in enumerate(outcomes):
        if outcome == ".":
            deaths.handled(source)
        elif deaths.died(source):
            return place
    return None


def test_a_run_of_deaths_is_too_many() -> None:
    assert first_too_many(DeadLetters(LIMIT), "xxxx.xxxxx") == 9


def test_a_share_of_deaths_is_too_many_however_they_are_mixed() -> None:
    assert first_too_many(DeadLetters(LIMIT), "xxx." * 10) == 9, "once half of the window is known"
    assert first_too_many(DeadLetters(LIMIT), ".x" * 50) is None, "half is not more than half"


def test_the_share_is_of_the_newest() -> None:
    deaths = DeadLetters(LIMIT)
    assert first_too_many(deaths, "." * 1_000) is None
    assert first_too_many(deaths, "xxx." * 10) is not None


def test_what_one_source_does_right_excuses_no_other() -> None:
    deaths = DeadLetters(LIMIT)
    found = []
    for _ in range(5):
        deaths.handled("/good")
        found.append(deaths.died("/bad"))
    assert [bool(reason) for reason in found] == [False] * 4 + [True]


def test_after_a_resume_it_counts_anew() -> None:
    deaths = DeadLetters(LIMIT)
    assert first_too_many(deaths, "xxxxx") == 4
    deaths.forget("/s")
    assert first_too_many(deaths, "xxxx") is None
    deaths.forget()
    assert first_too_many(deaths, "xxxxx") == 4


def test_a_flood_of_names_takes_bounded_room() -> None:
    deaths = DeadLetters(LIMIT)
    for number in range(5_000):
        deaths.died(f"/forged/{number}")
    assert len(deaths._sources) == 1_000


AT = datetime(2026, 5, 4, 12, 0, 30, tzinfo=UTC)


def test_a_quota_is_of_one_source_and_begins_anew_each_minute() -> None:
    quota = Quota(3)
    assert [quota.over("/a", AT, 0, offset) for offset in range(5)] == [False] * 3 + [True] * 2
    assert not quota.over("/b", AT, 0, 9)
    assert not quota.over("/a", AT + timedelta(minutes=1), 0, 10)


def test_a_quota_is_of_all_partitions_together() -> None:
    quota = Quota(3)
    found = [quota.over("/a", AT, offset % 2, offset) for offset in range(6)]
    assert found == [False] * 3 + [True] * 3


def test_a_record_that_comes_again_is_counted_once_and_judged_as_before() -> None:
    quota = Quota(3)
    assert [quota.over("/a", AT, 0, offset) for offset in range(5)] == [False] * 3 + [True] * 2
    assert [quota.over("/a", AT, 0, offset) for offset in range(5)] == [False] * 3 + [True] * 2


def test_a_backlog_is_no_burst() -> None:
    quota = Quota(3)
    times = [AT + timedelta(minutes=number // 3) for number in range(300)]
    assert not any(quota.over("/a", at, 0, number) for number, at in enumerate(times))


def test_a_flood_of_names_takes_bounded_room_in_a_quota_too() -> None:
    quota = Quota(3)
    for number in range(5_000):
        quota.over(f"/forged/{number}", AT, 0, number)
    assert len(quota._minutes) == 1_000
