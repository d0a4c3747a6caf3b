"""When a consumer hangs: its group is behind, its offset stands still, and nothing else explains it."""

import math

from aiokafka import TopicPartition

from shared.service.progress import stuck

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
NOBODY: frozenset[TopicPartition] = frozenset()


def test_the_last_record_in_hand_counts() -> None:
    assert stuck({P0: (7, 0.0)}, NOBODY, moved_at=0.0, now=121, patience=120) == "t/0 at 7"
    assert stuck({P0: (7, 0.0)}, NOBODY, moved_at=0.0, now=119, patience=120) is None


def test_nothing_unread_is_not_stuck() -> None:
    assert stuck({}, NOBODY, moved_at=-math.inf, now=1e9, patience=120) is None


def test_a_partition_waits_its_turn_while_others_of_its_topic_move() -> None:
    still = {P0: (7, 0.0), P1: (9, 290.0)}
    assert stuck(still, NOBODY, moved_at=295.0, now=300, patience=120) is None
    assert stuck(still, NOBODY, moved_at=605.0, now=610, patience=120) == "t/0 at 7", "but not for ever"


def test_a_slow_handler_moves_as_long_as_it_finishes_something() -> None:
    assert stuck({P0: (7, 0.0)}, NOBODY, moved_at=250.0, now=300, patience=120) is None


def test_a_record_that_waits_for_another_event_is_not_stuck() -> None:
    assert stuck({P0: (7, 0.0)}, frozenset({P0}), moved_at=0.0, now=1e6, patience=120) is None
