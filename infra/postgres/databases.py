"""One database and one role per service; a role can open its own database and no other.

`python -m infra.postgres.databases` does it for a server of yours: DRIFTWHEEL_POSTGRES_URL is the administrator's URL,
and each service's `DRIFTWHEEL_<SERVICE>__DATABASE_URL` says which role, password and database it expects.
"""

import os
import sys
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql


def ensure(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Create, for each role, the role and a database of the same name, or bring its password up to date."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        databases = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name, password in passwords.items():
            role = sql.Identifier(name)
            verb = sql.SQL("ALTER" if name in roles else "CREATE")
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, role, sql.Literal(password))
            )
            if name not in databases:
                connection.execute(
                    sql.SQL("GRANT {} TO CURRENT_USER").format(role)
                )  # hosted servers have no superuser
                connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0} TEMPLATE template0").format(role))
                connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))


def main() -> None:
    from infra.local.credentials import SERVICES

    urls = [urlsplit(os.environ[f"DRIFTWHEEL_{service.upper()}__DATABASE_URL"]) for service in SERVICES]
    ensure(
        os.environ["DRIFTWHEEL_POSTGRES_URL"],
        {str(url.username): unquote(url.password or "") for url in urls},
    )
    print(f"databases ready: {', '.join(SERVICES)}", file=sys.stderr)


if __name__ == "__main__":
    main()
