"""What `make chaos` is made of, without a stack."""

from infra.local.parts import parts_of
from infra.local.parts.service import Service
from tests.chaos import clocks


def test_each_service_and_worker_is_started_with_a_clock_that_can_be_moved() -> None:
    ours = {name for name, part in parts_of(2).items() if isinstance(part, Service)}
    assert {part.name for part in clocks.parts(2)} == ours
