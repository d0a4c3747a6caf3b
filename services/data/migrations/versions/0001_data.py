"""Files, policies, served answers with feedback, and the datasets made from them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "declared",
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("policy", JSONB, nullable=False),
    )
    op.create_table(
        "champion",
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("model_version", sa.Integer, nullable=False),
        sa.Column("dataset_digest", sa.String, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
    )
    op.create_table(
        "prediction",
        sa.Column("answer_id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("line", sa.BigInteger, nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.String, primary_key=True),
        sa.Column("answer_id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("corrected", sa.String),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("feedback_answer", "feedback", ["answer_id"])
    op.create_index("feedback_model", "feedback", ["model"])
    op.create_table(
        "drift",
        sa.Column("drift_id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("dataset_digest", sa.String, nullable=False),
        sa.Column("severity", sa.Float, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "build",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("files", JSONB, nullable=False),
        sa.Column("format", sa.String),
        sa.Column("drift_id", sa.String),
        sa.Column("digest", sa.String),
        sa.Column("generation", sa.Integer),
        sa.Column("parents", JSONB, nullable=False),
        sa.Column("rows", JSONB, nullable=False),
        sa.Column("read", sa.Integer, nullable=False),
        sa.Column("dropped", JSONB, nullable=False),
        sa.Column("rejects", JSONB, nullable=False),
        sa.Column("cause", JSONB),
        sa.Column("created_by", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("drift_id", name="build_drift"),
    )
    op.create_index("build_model", "build", ["model", "created_at"])
    op.create_index("build_digest", "build", ["digest"])
    op.create_table(
        "dataset",
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "used",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("feedback_id", sa.String, primary_key=True),
    )


def downgrade() -> None:
    for table in (
        "used",
        "dataset",
        "build",
        "drift",
        "feedback",
        "prediction",
        "champion",
        "declared",
        "file",
    ):
        op.drop_table(table)
