"""The front door: one Caddyfile, here and in containers."""

from infra.local.credentials import SERVICES
from infra.local.http import fetch
from infra.local.part import Launch, Part
from infra.local.parts.service import replica_name
from infra.local.ports import LOOPBACK
from infra.local.site import Site, base_environment, script
from infra.local.state import ROOT

CADDYFILE = ROOT / "infra" / "caddy" / "Caddyfile"


class FrontDoor(Part):
    name = "caddy"
    ports = ("caddy",)
    stop_seconds = 15.0

    def __init__(self, replicas: int = 1):
        self._replicas = replicas

    def launch(self, site: Site) -> Launch:
        folder = site.folder("caddy")
        environment = base_environment() | {
            "FRONT_DOOR_HOST": LOOPBACK,
            "FRONT_DOOR_PORT": str(site.ports["caddy"]),
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            **{
                f"UPSTREAM_{service.upper()}": self._addresses(site, service)
                for service in (*SERVICES, "console")
            },
        }
        return Launch(
            [script("caddy"), "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"],
            environment,
            folder,
        )

    def _addresses(self, site: Site, service: str) -> str:
        """host:port of every replica, as Caddy reads a list."""
        number = 1 if service == "console" else self._replicas
        names = [replica_name(service, replica) for replica in range(1, number + 1)]
        return " ".join(f"{LOOPBACK}:{site.ports[name]}" for name in names)

    def check(self, site: Site, since: float) -> None:
        fetch(f"{site.url('caddy')}/health/live")
