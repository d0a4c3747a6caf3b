"""`driftwheel subjects erase`: data first, then serving, and what cannot be taken back is said."""

from services.console.door import Exit
from tests.unit.console.conftest import Command, Door

SERVING, DATA = ("POST", "/api/serving/subjects/erase"), ("POST", "/api/data/subjects/erase")


def test_a_subject_is_erased_in_both_services(driftwheel: Command, door: Door) -> None:
    door.answers[SERVING] = {"dry_run": True, "answers": ["a-1", "a-2"], "corrections": 1}
    door.answers[DATA] = {"rows": 3, "datasets": ["d" * 64]}
    result = driftwheel("subjects", "erase", "ann", "--model", "support", "--yes")
    assert result.exit_code == Exit.OK
    assert "2 answers and 1 corrections" in result.stdout
    assert "d" * 64 in result.stderr
    assert door.asked == [SERVING, DATA, SERVING]
    assert [body.get("dry_run") for body in door.bodies] == [True, None, False]
    assert door.bodies[1] == {"model": "support", "subject": "ann", "answers": ["a-1", "a-2"]}


def test_without_a_yes_nothing_is_erased(driftwheel: Command, door: Door) -> None:
    door.answers[SERVING] = {"dry_run": True, "answers": ["a-1"], "corrections": 0}
    result = driftwheel("subjects", "erase", "ann", "--model", "support")
    assert result.exit_code == Exit.USAGE
    assert door.asked == [SERVING]
