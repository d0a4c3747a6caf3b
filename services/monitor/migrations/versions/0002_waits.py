"""Corrections, what a retraining has made so far, and lists page by page."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    corrected = sa.text("corrected")
    op.add_column("feedback", sa.Column("corrected", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("feedback_corrected", "feedback", ["model", "seen_at"], postgresql_where=corrected)
    op.add_column("window", sa.Column("corrected", sa.Integer, nullable=False, server_default="0"))
    for table, name in (("feedback", "corrected"), ("window", "corrected")):
        op.alter_column(table, name, server_default=None)
    op.create_index("window_newest", "window", ["opened_at", "id"])
    op.create_index("window_newest_of_model", "window", ["model", "opened_at", "id"])
    op.add_column("drift", sa.Column("dataset_digest", sa.String))
    op.add_column("drift", sa.Column("run_id", sa.String))
    op.add_column("drift", sa.Column("new_version", sa.Integer))
    # Of a flight that is under way the run is not known here, but that there is one.
    op.execute("UPDATE drift SET run_id = '' WHERE verdict = 'retrain' AND stage <> ''")
    op.drop_index("drift_model", "drift")
    op.create_index("drift_model", "drift", ["model", "announced_at", "id"])
    op.create_index("drift_newest", "drift", ["announced_at", "id"])


def downgrade() -> None:
    op.drop_index("drift_newest", "drift")
    op.drop_index("drift_model", "drift")
    op.create_index("drift_model", "drift", ["model", "announced_at"])
    for name in ("new_version", "run_id", "dataset_digest"):
        op.drop_column("drift", name)
    op.drop_index("window_newest_of_model", "window")
    op.drop_index("window_newest", "window")
    op.drop_column("window", "corrected")
    op.drop_index("feedback_corrected", "feedback")
    op.drop_column("feedback", "corrected")
