"""The golden probe: what counts as the answers the evaluator saw."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.serving.engines import EngineClient, EngineOptions
from services.serving.probe import Golden, probe, read_report
from shared.contracts.errors import Invalid


def report(golden: Any) -> tuple[bytes, str]:
    raw = json.dumps({"golden": golden}).encode()
    return raw, hashlib.sha256(raw).hexdigest()


def question(number: int, answer: str, base_answer: str = "base") -> dict[str, Any]:
    messages = [{"role": "user", "content": f"q{number}"}]
    return {
        "messages": messages,
        "answer": answer,
        "base_answer": base_answer,
        "max_tokens": 8,
        "margin": 1.0,
    }


class Answering(EngineClient):
    """Answers from a table."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.answers = answers

    @staticmethod
    def command(options: EngineOptions) -> list[str]:
        return []

    @staticmethod
    def environment(options: EngineOptions) -> dict[str, str]:
        return {}

    async def load(self, name: str, path: Path) -> None:
        pass

    async def chat(self, name: str, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> str:
        assert max_tokens == 8
        return self.answers[messages[-1]["content"]]


def golden() -> tuple[Golden, ...]:
    return read_report(*report([question(number, f"a{number}") for number in range(4)]))


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        (["a0", "a1", "a2", "a3"], None),
        (["a0", " a1\n", "a2", "other"], None),
        (["a0", "a1", "other", "other"], "2 of 4 golden answers are as the evaluator saw them"),
        (["base"] * 4, "0 of 4 golden answers are as the evaluator saw them, 4 are the base's"),
        (["!!!!"] * 4, "0 of 4"),
        ([""] * 4, "0 of 4"),
    ],
)
async def test_three_of_four_answers_must_be_right(answers: list[str], verdict: str | None) -> None:
    engine = Answering({f"q{number}": answer for number, answer in enumerate(answers)})
    found = await probe(engine, "support-v1-0", golden(), 0.75, 5)
    assert found is None if verdict is None else found is not None and found.startswith(verdict)


def test_an_altered_report_is_refused() -> None:
    raw, digest = report([question(0, "a")])
    with pytest.raises(Invalid):
        read_report(raw + b" ", digest)


@pytest.mark.parametrize("content", [None, [], {}, "x", [{"answer": "a"}], [question(0, "base")], [1]])
def test_evidence_that_tells_nothing_is_refused(content: Any) -> None:
    with pytest.raises(Invalid):
        read_report(*report(content))


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff"])
def test_a_report_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid):
        read_report(raw, hashlib.sha256(raw).hexdigest())
