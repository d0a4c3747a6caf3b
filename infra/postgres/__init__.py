"""PostgreSQL: one database and one role per service."""
