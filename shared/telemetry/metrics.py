"""The metrics that every service has."""

from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter(
    "driftwheel_events_handled_total", "Events by what became of them.", ["service", "topic", "outcome"]
)
OUTCOMES = ("handled", "duplicate", "dead")
HANDLING_SECONDS = Histogram(
    "driftwheel_event_handling_seconds", "Time from first try to commit.", ["service", "topic"]
)
OUTBOX_PENDING = Gauge("driftwheel_outbox_pending", "Events committed and not yet in Kafka.", ["service"])
OUTBOX_AGE_SECONDS = Gauge(
    "driftwheel_outbox_age_seconds", "Age of the oldest event not yet in Kafka.", ["service"]
)
OUTBOX_SENT = Counter("driftwheel_outbox_sent_total", "Events acknowledged by Kafka.", ["service"])
CONSUMER_STOPPED = Gauge(
    "driftwheel_consumer_stopped", "1 when too many messages of the topic died.", ["service", "topic"]
)
CONSUMER_WAITING = Gauge(
    "driftwheel_consumer_waiting", "1 while a part that the consumer needs is away.", ["service", "topic"]
)
CONSUMER_QUARANTINED = Gauge(
    "driftwheel_consumer_quarantined",
    "Sources of which the topic takes nothing now: too many of their messages died.",
    ["service", "topic"],
)
CONSUMER_LAG_SECONDS = Gauge(
    "driftwheel_consumer_lag_seconds", "Age of the oldest unhandled record.", ["service", "group", "topic"]
)
CONSUMER_LAG_MESSAGES = Gauge(
    "driftwheel_consumer_lag_messages", "Records not yet handled.", ["service", "group", "topic"]
)
OUTBOX_REFUSED = Counter(
    "driftwheel_outbox_refused_total", "Events given up because Kafka never takes them.", ["service"]
)
OUTBOX_BLOCKED = Gauge(
    "driftwheel_outbox_blocked", "1 while Kafka takes nothing for this topic of ours.", ["service", "topic"]
)
SIGNATURE_REFUSED = Counter(
    "driftwheel_signatures_refused_total",
    "Messages buried since they are not signed by whom they must be from.",
    ["service", "topic", "reason"],
)
FOREIGN_REFUSED = Counter(
    "driftwheel_foreign_refused_total",
    "Messages from outside the platform that were too many (quota) or too large (bytes).",
    ["service", "topic", "limit"],
)
IMPLAUSIBLE = Counter(
    "driftwheel_implausible_events_total",
    "Events buried since they say a revision, sequence or version that cannot be true yet.",
    ["service", "topic"],
)
DEAD_LETTERS = Gauge(
    "driftwheel_dead_letters", "Messages that died and were not redriven.", ["service", "topic"]
)
JOBS = Gauge("driftwheel_jobs", "Jobs that wait or run.", ["service", "task", "state"])
JOB_OLDEST_SECONDS = Gauge(
    "driftwheel_job_oldest_seconds",
    "How long the oldest job has been due (waiting) or worked on (running).",
    ["service", "task", "state"],
)
