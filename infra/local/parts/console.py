"""The console's pages: a client of the front door like any other, so it needs no database, broker or store."""

import hashlib
import sys

from infra.local.http import fetch
from infra.local.part import Launch, Part
from infra.local.ports import LOOPBACK
from infra.local.site import Site, python_environment


class Console(Part):
    name = "console"
    ports = ("console",)

    def launch(self, site: Site) -> Launch:
        values = {
            "DOOR_URL": site.url("caddy"),
            "HTTP_HOST": LOOPBACK,
            "HTTP_PORT": str(site.ports["console"]),
            **site.identity,
        }
        ours = {f"DRIFTWHEEL_CONSOLE__{name}": value for name, value in values.items()}
        # A restart signs nobody out: open pages go on by themselves.
        sessions = {"DRIFTWHEEL_CONSOLE__SESSION_KEY": _session_key(site)}
        environment = python_environment() | sessions | site.settings_of("console") | ours
        return Launch([sys.executable, "-m", "services.console.app"], environment, site.folder("console"))

    def check(self, site: Site, since: float) -> None:
        fetch(f"{site.url('console')}/health/ready")


def _session_key(site: Site) -> str:
    """The same at each start; whoever reads the key that it comes from may sign any token anyway."""
    secret = (site.home / "secrets" / "signing-key.json").read_bytes()
    return hashlib.sha256(b"driftwheel console sessions" + secret).hexdigest()
