"""Models, adapters, rollouts, predictions, feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "logical_model",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("champion_version", sa.Integer()),
        sa.Column("previous_version", sa.Integer()),
        sa.Column("champion_sequence", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.String()),
    )
    op.create_table(
        "adapter",
        sa.Column("engine_name", sa.String(), primary_key=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("adapter_digest", sa.String(), nullable=False),
        sa.Column("base_digest", sa.String(), nullable=False),
        sa.Column("evidence_bucket", sa.String(), nullable=False),
        sa.Column("evidence_key", sa.String(), nullable=False),
        sa.Column("evidence_sha256", sa.String(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.UniqueConstraint("model", "model_version"),
        sa.CheckConstraint(
            "state IN ('wanted', 'admitted', 'loaded', 'probed', 'refused')", name="adapter_state"
        ),
    )
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("model", sa.String(), nullable=False, index=True),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("champion_version", sa.Integer()),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("drift_id", sa.String()),
        sa.Column("cause", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("step_started_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'completed', 'rolled_back', 'superseded')", name="rollout_state"
        ),
    )
    op.create_index(
        "rollout_one_running",
        "rollout",
        ["model"],
        unique=True,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "prediction",
        sa.Column("answer_id", sa.String(), primary_key=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_version", sa.Integer()),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("rollout_id", sa.String()),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("object_key", sa.String()),
        sa.Column("line", sa.Integer()),
    )
    op.create_index("prediction_rollout", "prediction", ["rollout_id", "arm", "served_at"])
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.String(), primary_key=True),
        sa.Column("answer_id", sa.String(), nullable=False, index=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("corrected", sa.String()),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    for table in ("feedback", "prediction", "rollout", "adapter", "logical_model"):
        op.drop_table(table)
