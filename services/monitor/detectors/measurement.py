"""What every detector answers."""

from dataclasses import dataclass, field

from shared.contracts.text import Json


class NotMeasurableError(Exception):
    """The samples carry too little to say anything; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The score of one comparison.

    Attributes:
        score: 0..1; the more, the more different.
        bar: the score that counts as drift: the declared one, or more where chance alone reaches that.
        report: numbers behind the score, as JSON.
        page: a report for people as HTML. It may quote prompts without escaping them: never show it as a page of ours.
    """

    score: float
    bar: float
    report: Json = field(default_factory=dict)
    page: str = ""

    @property
    def drifted(self) -> bool:
        return self.score >= self.bar
