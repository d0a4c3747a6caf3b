"""A message is known by topic, source and id: two producers that count from 1 do not meet."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

contracts = "Services stop for this one: the release before claims a message by its id alone, which is unique no more."


def upgrade() -> None:
    op.execute(
        "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey, ADD CONSTRAINT inbox_pkey PRIMARY KEY (event_id, topic, source)"
    )


def downgrade() -> None:
    op.execute(
        "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey, ADD CONSTRAINT inbox_pkey PRIMARY KEY (event_id)"
    )
