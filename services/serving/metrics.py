"""What serving measures. `version` is an engine name from the routing table, never what a caller sent."""

from prometheus_client import Counter, Gauge, Histogram

from services.serving.answers import Answer

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter("driftwheel_serving_requests_total", "Answers by version.", ["version", "arm", "outcome"])
LATENCY = Histogram(
    "driftwheel_serving_latency_seconds", "Time to the last byte.", ["version"], buckets=_SECONDS
)
FIRST_TOKEN = Histogram(
    "driftwheel_serving_first_token_seconds",
    "Time to the first text of a stream.",
    ["version"],
    buckets=_SECONDS,
)
TOKENS = Counter("driftwheel_serving_tokens_total", "Tokens by version.", ["version", "kind"])
IN_FLIGHT = Gauge("driftwheel_serving_in_flight", "Requests in the engine.")
SHED = Counter(
    "driftwheel_serving_shed_total", "Requests or records refused because a bound was met.", ["what"]
)
QUEUE = Gauge("driftwheel_serving_predictions_waiting", "Answers not yet written.")
SPOOLED = Gauge("driftwheel_serving_spool_bytes", "What waits on local disk.", ["what"])
OLDEST = Gauge(
    "driftwheel_serving_spool_oldest_seconds", "Age of the oldest thing that waits there.", ["what"]
)
DAMAGED = Counter(
    "driftwheel_serving_spool_damaged_total", "Records on local disk that could not be read again.", ["what"]
)
FEEDBACK = Counter(
    "driftwheel_serving_feedback_total", "What became of judgements that had to wait.", ["outcome"]
)
LOADED = Gauge("driftwheel_serving_adapters_loaded", "Adapters that are loaded and probed.")
CHAMPIONS_MISSING = Gauge(
    "driftwheel_serving_champions_missing", "Champions that do not answer: not loaded yet, or refused."
)
REFUSED = Counter(
    "driftwheel_serving_adapters_refused_total", "Adapters refused at admission or by the probe."
)
ROLLOUTS = Counter("driftwheel_serving_rollouts_total", "Rollout changes.", ["state"])
# From 0: a counter that starts with its first event hides that event from rate().
for _state in ("started", "advanced", "held", "completed", "rolled_back"):
    ROLLOUTS.labels(_state)
for _what in ("request", "prediction", "feedback"):
    SHED.labels(_what)
for _what in ("prediction", "feedback"):
    for _metric in (SPOOLED, OLDEST, DAMAGED):
        _metric.labels(_what)
for _outcome in ("kept", "unknown", "conflict"):
    FEEDBACK.labels(_outcome)


def observe(
    version: str, arm: str, outcome: str, seconds: float, first: float | None, answer: Answer | None
) -> None:
    """Count one attempt; durations and tokens only of answers that were good."""
    REQUESTS.labels(version, arm, outcome).inc()
    if answer is None or outcome != "ok":
        return
    LATENCY.labels(version).observe(seconds)
    TOKENS.labels(version, "prompt").inc(answer.prompt_tokens)
    TOKENS.labels(version, "completion").inc(answer.completion_tokens)
    if first is not None:
        FIRST_TOKEN.labels(version).observe(first)
