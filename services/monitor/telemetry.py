"""Metrics of the monitor. The model label is bounded: only declared models have windows."""

from prometheus_client import Counter, Gauge

DRIFT_SCORE = Gauge("driftwheel_monitor_drift_score", "Detector score of the newest window.", ["model"])
QUALITY = Gauge("driftwheel_monitor_quality", "Mean feedback score in the newest window.", ["model"])
VERDICTS = Counter("driftwheel_monitor_verdicts_total", "Announced verdicts.", ["model", "verdict"])
RETRAINING_SECONDS = Gauge(
    "driftwheel_monitor_retraining_seconds",
    "How long ago the oldest retraining was asked for that has not ended; 0 if there is none.",
    ["model"],
)
WINDOWS_FAILED = Counter(
    "driftwheel_monitor_windows_failed_total", "Windows that could not be measured.", ["model"]
)
