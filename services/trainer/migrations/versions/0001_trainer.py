"""Declared recipes, runs with what they announced, and the requests they answer."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "declared",
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("base", sa.String, nullable=False),
        sa.Column("recipe", JSONB, nullable=False),
        sa.Column("budget", JSONB, nullable=False),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("dataset_digest", sa.String, nullable=False),
        sa.Column("recipe_hash", sa.String, nullable=False),
        sa.Column("base_digest", sa.String, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("recipe", JSONB, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("drift_id", sa.String),
        sa.Column("idempotency_key", sa.String),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("budget", sa.Float, nullable=False),
        sa.Column("device_hour", sa.Float, nullable=False),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("labels", JSONB, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("fruitless", sa.Integer, nullable=False),
        sa.Column("dtype", sa.String),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("total_steps", sa.Integer, nullable=False),
        sa.Column("loss", sa.Float),
        sa.Column("validation_loss", sa.Float),
        sa.Column("eta_seconds", sa.Float),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("device_seconds", sa.Float, nullable=False),
        sa.Column("curve", JSONB, nullable=False),
        sa.Column("adapter_digest", sa.String),
        sa.Column("rejection", JSONB),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.UniqueConstraint(
            "model", "dataset_digest", "recipe_hash", "base_digest", "round", name="run_identity"
        ),
    )
    op.create_index("run_model", "run", ["model", "created_at"])
    op.create_table(
        "entry",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("status", JSONB, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "request",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("body_hash", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("reply_topic", sa.String),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("request_run", "request", ["run_id"])


def downgrade() -> None:
    for table in ("request", "entry", "run", "declared"):
        op.drop_table(table)
