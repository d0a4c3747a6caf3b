"""Who holds an alias, what became of a version, and what changed last are one look at an index each."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("alias_event_holder", "alias_event", ["model", "alias", "sequence"])
    op.create_index("alias_event_version", "alias_event", ["model", "version", "sequence"])
    op.create_index("model_version_trained", "model_version", ["model", "trained_at"])
    op.create_index("rollout_version", "rollout", ["model", "version", "changed_at"])


def downgrade() -> None:
    op.drop_index("rollout_version")
    op.drop_index("model_version_trained")
    op.drop_index("alias_event_version")
    op.drop_index("alias_event_holder")
