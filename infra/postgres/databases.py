"""One database and one role per service; a role can open its own database and no other.

`python -m infra.postgres.databases` does it for a server of yours: DRIFTWHEEL_POSTGRES_URL is the administrator's URL,
and each service's `DRIFTWHEEL_<SERVICE>__DATABASE_URL` says which role, password and database it expects.
"""

import os
import sys
from collections.abc import Mapping

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

WRONG_PASSWORD = ("28P01", "28000")


class RoleTaken(Exception):
    """A role of that name is somebody else's; nothing of it was changed. The message says what to do."""

    def __init__(self, role: str):
        super().__init__(
            f"the role {role} exists on this server with another password, so it is not ours; nothing was changed. Choose "
            "other names with DRIFTWHEEL_POSTGRES_PREFIX, or give the role's own URL in DRIFTWHEEL_<SERVICE>__DATABASE_URL"
        )


def ensure(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Create, for each role, the role and a database of the same name. What is there stays as it is.

    Raises RoleTaken, before anything is created, when a role has another password.
    """
    with psycopg.connect(admin_url, autocommit=True, connect_timeout=5) as connection:
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        databases = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name in passwords.keys() & roles:
            if not _opens(admin_url, name, passwords[name]):
                raise RoleTaken(name)
        for name, password in passwords.items():
            role = sql.Identifier(name)
            if name not in roles:
                create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                connection.execute(create.format(role, sql.Literal(password)))
            if name not in databases:
                connection.execute(
                    sql.SQL("GRANT {} TO CURRENT_USER").format(role)
                )  # hosted servers have no superuser
                connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0} TEMPLATE template0").format(role))
                connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))


def _opens(admin_url: str, role: str, password: str) -> bool:
    """Whether the server takes this password; that the role may not open the administrator's database is no matter."""
    at = make_conninfo(admin_url, user=role, password=password, connect_timeout=5)
    try:
        psycopg.connect(at).close()
    except psycopg.OperationalError as error:
        refused = str(error)
        if "password authentication failed" in refused or getattr(error, "sqlstate", None) in WRONG_PASSWORD:
            return False
        if "permission denied" not in refused:
            raise
    return True


def main() -> None:
    from infra.local.credentials import SERVICES

    urls = [
        conninfo_to_dict(os.environ[f"DRIFTWHEEL_{service.upper()}__DATABASE_URL"]) for service in SERVICES
    ]
    try:
        ensure(
            os.environ["DRIFTWHEEL_POSTGRES_URL"],
            {str(url["user"]): str(url.get("password") or "") for url in urls},
        )
    except RoleTaken as taken:
        sys.exit(str(taken))
    print(f"databases ready: {', '.join(SERVICES)}", file=sys.stderr)


if __name__ == "__main__":
    main()
