"""The front door: one Caddyfile, here and in containers."""

from infra.local.credentials import SERVICES
from infra.local.http import fetch
from infra.local.part import Launch, Part
from infra.local.ports import LOOPBACK
from infra.local.settings import ROOT
from infra.local.site import Site, base_environment, script

CADDYFILE = ROOT / "infra" / "caddy" / "Caddyfile"


class FrontDoor(Part):
    name = "caddy"
    ports = ("caddy",)
    stop_seconds = 15.0

    def launch(self, site: Site) -> Launch:
        folder = site.folder("caddy")
        environment = base_environment() | {
            "FRONT_DOOR_HOST": LOOPBACK,
            "FRONT_DOOR_PORT": str(site.ports["caddy"]),
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            **{
                f"UPSTREAM_{service.upper()}": f"{LOOPBACK}:{site.ports[service]}"
                for service in (*SERVICES, "console")
            },
        }
        return Launch(
            [script("caddy"), "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"],
            environment,
            folder,
        )

    def check(self, site: Site, since: float) -> None:
        fetch(f"{site.url('caddy')}/health/live")
