"""How drift of the input is measured: one file per detector.

A detector is a function `(reference, current, min_score) -> Measurement` over two samples of prompts. It runs in a
process of its own (`process.py`), so it may take seconds and load what it likes, inside the function.
"""

from collections.abc import Callable, Sequence

from services.monitor.detectors.measurement import Measurement, NotMeasurableError
from services.monitor.detectors.text_domain import text_domain

Detector = Callable[[Sequence[str], Sequence[str], float], Measurement]

DETECTORS: dict[str, Detector] = {
    "text_domain": text_domain,
}

__all__ = ["DETECTORS", "Detector", "Measurement", "NotMeasurableError"]
