"""Declared gates, champions, and evaluations."""

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
        sa.Column("gates", JSONB, nullable=False),
        sa.Column("generation", JSONB, nullable=False),
    )
    op.create_table(
        "champion",
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("adapter_digest", sa.String, nullable=False),
        sa.Column("base_digest", sa.String, nullable=False),
        sa.Column("dataset_digest", sa.String, nullable=False),
    )
    op.create_table(
        "evaluation",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("adapter_digest", sa.String, nullable=False),
        sa.Column("base_digest", sa.String, nullable=False),
        sa.Column("dataset_digest", sa.String, nullable=False),
        sa.Column("champion_version", sa.Integer),
        sa.Column("drift_id", sa.String),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("verdict", sa.String),
        sa.Column("scores", JSONB, nullable=False),
        sa.Column("verdicts", JSONB, nullable=False),
        sa.Column("report", JSONB(none_as_null=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'superseded', 'failed')", name="evaluation_state"
        ),
    )
    op.create_index("evaluation_model", "evaluation", ["model", "created_at"])


def downgrade() -> None:
    for table in ("evaluation", "champion", "declared"):
        op.drop_table(table)
