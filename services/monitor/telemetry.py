"""Metrics of the monitor. The model label is bounded: only declared models have windows."""

from prometheus_client import Counter, Gauge

DRIFT_SCORE = Gauge("driftwheel_monitor_drift_score", "Detector score of the newest window.", ["model"])
QUALITY = Gauge("driftwheel_monitor_quality", "Mean feedback score in the newest window.", ["model"])
VERDICTS = Counter("driftwheel_monitor_verdicts_total", "Announced verdicts.", ["model", "verdict"])
WINDOWS_FAILED = Counter(
    "driftwheel_monitor_windows_failed_total", "Windows that could not be measured.", ["model"]
)
