"""The broker's configuration: `server.properties` here, and who may come in at which listener.

Services log in with SCRAM-SHA-512; their users live in the cluster and are made by `infra.kafka.access`. `admin` and the
broker itself log in with PLAIN against this file, so that they can come in while there is no user yet: on a new
installation, and on one from before there were users.
"""

from collections.abc import Mapping
from pathlib import Path

BASE = Path(__file__).with_name("server.properties")
BROKER, ADMIN = "broker", "admin"
_MODULES = "org.apache.kafka.common.security"


def properties(
    client: str, controller: str, advertised: str, passwords: Mapping[str, str], keys: Path | None = None
) -> str:
    """The whole file. It holds passwords: write it for the broker's eyes only.

    Args:
        client, controller: host:port to listen on; the controller's belongs on loopback.
        advertised: host:port that clients are told.
        passwords: of `broker` and `admin`.
        keys: folder with `kafka.pem` (key and certificate) and `kafka-ca.pem`; then clients connect in TLS.
    """
    protocol = "SASL_SSL" if keys else "SASL_PLAINTEXT"
    static = {BROKER: passwords[BROKER], ADMIN: passwords[ADMIN]}
    lines = {
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"CLIENT://{client},CONTROLLER://{controller}",
        "advertised.listeners": f"CLIENT://{advertised}",
        "listener.security.protocol.map": f"CLIENT:{protocol},CONTROLLER:SASL_PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
        "listener.name.client.scram-sha-512.sasl.jaas.config": f"{_MODULES}.scram.ScramLoginModule required;",
        "listener.name.client.plain.sasl.jaas.config": _plain(static),
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": _plain({BROKER: static[BROKER]}),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"User:{BROKER};User:{ADMIN}",
    }
    if keys:
        lines |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keys / "kafka.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(keys / "kafka-ca.pem"),
        }
    return BASE.read_text() + "".join(f"{name}={value}\n" for name, value in lines.items())


def _plain(users: Mapping[str, str]) -> str:
    """The broker's own user, and whom it lets in. Passwords are URL-safe, so nothing needs quoting."""
    known = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    own = f'username="{BROKER}" password="{users[BROKER]}"'
    return f"{_MODULES}.plain.PlainLoginModule required {own} {known};"
