"""Policies, promotions, answers with feedback, windows over them, and announced verdicts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = ("drift", "window", "rollout", "feedback", "prediction", "promotion", "watched")


def _text(name: str, *, null: bool = False, key: bool = False) -> sa.Column:
    return sa.Column(name, sa.String, primary_key=key, nullable=null)


def _int(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, sa.Integer, nullable=null)


def _big(name: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _float(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, sa.Float, nullable=null)


def _bool(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, sa.Boolean, nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def _json(name: str) -> sa.Column:
    return sa.Column(name, JSONB, nullable=False)


def _arrival() -> sa.Column:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def upgrade() -> None:
    op.create_table("watched", _text("model", key=True), _int("revision"), _json("drift"), _json("retrain"))
    op.create_table(
        "promotion",
        _text("model", key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        _int("model_version"),
        _text("dataset_digest"),
        _float("quality", null=True),
        _bool("rollback"),
        _time("promoted_at"),
    )
    op.create_table(
        "prediction",
        _arrival(),
        _text("answer_id"),
        _text("model"),
        _int("model_version", null=True),
        _text("arm"),
        _text("outcome"),
        _text("error", null=True),
        _float("latency_ms"),
        _float("first_token_ms", null=True),
        _text("text_key", null=True),
        _int("text_line", null=True),
        _time("served_at"),
        _time("seen_at"),
        sa.UniqueConstraint("answer_id"),
    )
    champion = sa.text("arm = 'champion'")
    op.create_index(
        "prediction_champion", "prediction", ["model", "model_version", "id"], postgresql_where=champion
    )
    op.create_index("prediction_seen", "prediction", ["model", "seen_at"])
    op.create_table(
        "feedback",
        _arrival(),
        _text("feedback_id"),
        _text("answer_id"),
        _text("model"),
        _float("score"),
        _time("seen_at"),
        sa.UniqueConstraint("feedback_id"),
    )
    op.create_index("feedback_answer", "feedback", ["answer_id"])
    op.create_index("feedback_newest", "feedback", ["model", "id"])
    op.create_table(
        "rollout",
        _text("rollout_id", key=True),
        _text("model"),
        _int("model_version"),
        _int("champion_version", null=True),
        _text("state"),
        _int("step"),
        _float("weight"),
        _text("reason"),
        _time("seen_at"),
    )
    op.create_index("rollout_model", "rollout", ["model"])
    op.create_table(
        "window",
        _text("id", key=True),
        _text("model"),
        _int("sequence"),
        _int("model_version"),
        _text("dataset_digest"),
        _text("state"),
        _big("first_id"),
        _big("middle_id"),
        _big("last_id"),
        _int("predictions"),
        _time("started_at"),
        _time("ended_at"),
        _time("opened_at"),
        _time("measured_at", null=True),
        _float("score", null=True),
        _float("bar", null=True),
        _bool("drifted", null=True),
        _bool("hurt", null=True),
        _bool("alarmed"),
        _int("scored"),
        _float("mean_score", null=True),
        _big("feedback_seen"),
        _json("evidence"),
        _json("notes"),
        _text("report_sha256", null=True),
        _bool("has_page"),
        _text("verdict"),
        _text("reason"),
    )
    op.create_index("window_model", "window", ["model", "sequence", "last_id"])
    measuring = sa.text("state = 'measuring'")
    op.create_index("window_open", "window", ["model"], unique=True, postgresql_where=measuring)
    op.create_table(
        "drift",
        _text("id", key=True),
        _text("model"),
        _int("model_version"),
        _text("window_id"),
        _text("verdict"),
        _float("severity"),
        _text("event_id"),
        _time("announced_at"),
        _text("stage"),
        _time("ended_at", null=True),
        _text("outcome"),
        sa.UniqueConstraint("window_id", "verdict"),
    )
    op.create_index("drift_model", "drift", ["model", "announced_at"])


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
