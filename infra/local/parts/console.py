"""The console's pages: a client of the front door like any other, so it needs no database, broker or store."""

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
        environment = python_environment() | site.settings_of("console") | ours
        return Launch([sys.executable, "-m", "services.console.app"], environment, site.folder("console"))

    def check(self, site: Site, since: float) -> None:
        fetch(f"{site.url('console')}/health/ready")
