"""Models, policies, versions, evidence, alias events, rollouts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is only ever added to', TG_TABLE_NAME; END $$;
CREATE TRIGGER alias_event_append_only BEFORE UPDATE OR DELETE ON alias_event
FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""
"""History that could be rewritten would prove nothing."""


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "logical_model",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("versions", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
    )
    op.create_table(
        "policy_revision",
        sa.Column("model", sa.String, sa.ForeignKey("logical_model.name"), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("policy", JSONB, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("declared_at", time, nullable=False),
    )
    op.create_table(
        "model_version",
        sa.Column("model", sa.String, sa.ForeignKey("logical_model.name"), primary_key=True),
        sa.Column("adapter_digest", sa.String, primary_key=True),
        sa.Column("number", sa.Integer),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("base_digest", sa.String, nullable=False),
        sa.Column("dataset_digest", sa.String, nullable=False),
        sa.Column("recipe", JSONB, nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("cost", JSONB, nullable=False),
        sa.Column("drift_id", sa.String),
        sa.Column("trained_at", time, nullable=False),
        sa.Column("engine_name", sa.String),
        sa.Column("evaluation_id", sa.String),
        sa.Column("evidence", JSONB(none_as_null=True)),
        sa.Column("scores", JSONB, nullable=False),
        sa.Column("verdicts", JSONB, nullable=False),
        sa.Column("compared_with", sa.Integer),
        sa.Column("reasons", JSONB, nullable=False),
        sa.Column("remedy", sa.String, nullable=False),
        sa.Column("decided_at", time),
        sa.UniqueConstraint("model", "number", name="model_version_number"),
        sa.CheckConstraint(
            "state IN ('candidate', 'approved', 'rejected', 'rolled_back')", name="model_version_state"
        ),
    )
    op.create_table(
        "evidence",
        sa.Column("evaluation_id", sa.String, primary_key=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("adapter_digest", sa.String, nullable=False),
        sa.Column("event", JSONB, nullable=False),
        sa.Column("problem", sa.String),
        sa.Column("received_at", time, nullable=False),
    )
    op.create_index("evidence_version", "evidence", ["model", "adapter_digest"])
    op.create_table(
        "alias_event",
        sa.Column("model", sa.String, sa.ForeignKey("logical_model.name"), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("rollback", sa.Boolean, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("evidence", JSONB, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.CheckConstraint("alias IN ('champion', 'challenger')", name="alias_event_alias"),
    )
    op.execute(_APPEND_ONLY)
    op.create_table(
        "rollout",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("model", sa.String, sa.ForeignKey("logical_model.name"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("changed_at", time, nullable=False),
    )
    op.create_index("ix_rollout_model", "rollout", ["model"])


def downgrade() -> None:
    for table in ("rollout", "alias_event", "evidence", "model_version", "policy_revision", "logical_model"):
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_change()")
