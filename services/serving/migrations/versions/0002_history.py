"""What happened to each rollout, pauses, and lists of rollouts page by page."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# What is known of rollouts from before: when they were planned, when they started, how they ended.
_FROM_BEFORE = """
INSERT INTO rollout_change (rollout_id, at, state, step, weight, reason)
SELECT id, at, what, step, weight, reason FROM (
    SELECT id, created_at AS at, 'planned' AS what, 0 AS step, 0 AS weight, '' AS reason FROM rollout
    UNION ALL
    SELECT id, started_at, 'started', 0, (plan -> 'steps' ->> 0)::float, '' FROM rollout
    WHERE started_at IS NOT NULL
    UNION ALL
    SELECT id, ended_at, state, step, CASE state WHEN 'completed' THEN 100 ELSE 0 END, reason FROM rollout
    WHERE ended_at IS NOT NULL
) AS known ORDER BY at
"""


def upgrade() -> None:
    op.add_column("rollout", sa.Column("paused_at", sa.DateTime(timezone=True)))
    op.create_index("rollout_newest", "rollout", ["created_at", "id"])
    op.create_index("rollout_newest_of_model", "rollout", ["model", "created_at", "id"])
    op.create_table(
        "rollout_change",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("judgement", sa.JSON()),
    )
    op.create_index("rollout_change_order", "rollout_change", ["rollout_id", "id"])
    op.execute(_FROM_BEFORE)


def downgrade() -> None:
    op.drop_table("rollout_change")
    op.drop_index("rollout_newest_of_model", "rollout")
    op.drop_index("rollout_newest", "rollout")
    op.drop_column("rollout", "paused_at")
