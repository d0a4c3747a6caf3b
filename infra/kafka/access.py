"""Who may do what in Kafka, generated from who consumes and who produces what: `shared/contracts/events.py`.

Each service reads what it consumes, writes what it produces, its own dead letters and nothing else, in consumer groups
of its own name. The console reads. A foreign producer writes the foreign topics. Nobody but `admin` changes anything.

`python -m infra.kafka.access --print` shows it as `kafka-acls` commands for your own Kafka, `--apply` makes it so.
"""

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from infra.kafka import requests
from infra.kafka.admin import ClusterRefused, administrator
from infra.kafka.settings import AdminSettings
from infra.kafka.topics import dead_letters_of
from infra.local.credentials import SERVICES
from shared.contracts.events import EVENTS, REPLIER, REPLY_PREFIX
from shared.contracts.topology import CONSUMERS, PRODUCERS
from shared.delivery.settings import KafkaSettings

READER = "console"
FOREIGN = "foreign"
"""The example of a foreign producer: every other one has the same rights under a name of its own."""

_TYPES = {"topic": 2, "group": 3}
_PATTERNS = {"literal": 3, "prefixed": 4}
_OPERATIONS = {"Read": 3, "Write": 4, "Describe": 8}
_ALLOW = 3


@dataclass(frozen=True, order=True)
class Grant:
    """One permission: `role` may do `operation` (Read, Write, Describe) on `kind` (topic, group) `name`.

    Read and Write imply Describe. With `pattern` prefixed, `name` is how the names begin.
    """

    role: str
    operation: str
    kind: str
    name: str
    pattern: str = "literal"

    def allows(self, operation: str, kind: str, name: str) -> bool:
        same = name.startswith(self.name) if self.pattern == "prefixed" else name == self.name
        return self.kind == kind and same and operation in (self.operation, "Describe")


def grants(foreign: Iterable[str] = (FOREIGN,)) -> list[Grant]:
    """The whole access list, sorted. `foreign` are the names of producers outside the platform."""
    found = [grant for service in SERVICES for grant in _service(service)]
    found += _reader()
    for name in foreign:
        if name in (*SERVICES, READER, "admin", "broker"):
            raise ValueError(f"{name} is a name of the platform's own: give the foreign producer another one")
        found += _foreign(name)
    return sorted(set(found))


def _service(service: str) -> list[Grant]:
    consumed = [topic for topic, who in CONSUMERS.items() if service in who]
    produced = [topic for topic, who in PRODUCERS.items() if service in who]
    found = [Grant(service, "Read", "topic", topic) for topic in consumed]
    found += [Grant(service, "Write", "topic", dead_letters_of(topic, service)) for topic in consumed]
    found += [Grant(service, "Write", "topic", topic) for topic in produced]
    found.append(Grant(service, "Read", "group", f"{service}.", "prefixed"))
    if service == REPLIER:
        found.append(Grant(service, "Write", "topic", REPLY_PREFIX, "prefixed"))
    return found


def _reader() -> list[Grant]:
    dead = [dead_letters_of(topic, service) for topic, who in CONSUMERS.items() for service in who]
    found = [Grant(READER, "Read", "topic", name) for name in [*(event.topic for event in EVENTS), *dead]]
    return found + [Grant(READER, "Describe", "group", f"{service}.", "prefixed") for service in SERVICES]


def _foreign(name: str) -> list[Grant]:
    found = [Grant(name, "Write", "topic", event.topic) for event in EVENTS if event.foreign]
    # Its own answers, if it asks for them and the topic is made.
    found += [Grant(name, "Read", "topic", f"{REPLY_PREFIX}{name}")]
    return [*found, Grant(name, "Read", "group", f"{name}.", "prefixed")]


def commands(wanted: Sequence[Grant], principals: Mapping[str, str], bootstrap: str) -> list[str]:
    """The same for Kafka's own tool, one line each."""
    lines = []
    for grant in wanted:
        words = [
            "kafka-acls.sh",
            "--bootstrap-server",
            bootstrap,
            "--command-config",
            "admin.properties",
            "--add",
        ]
        words += ["--allow-principal", principal(grant.role, principals), "--operation", grant.operation]
        words += [f"--{grant.kind}", grant.name]
        lines.append(
            shlex.join(
                [*words, *(["--resource-pattern-type", "prefixed"] if grant.pattern == "prefixed" else [])]
            )
        )
    return lines


def principal(role: str, principals: Mapping[str, str]) -> str:
    return f"User:{principals.get(role, role)}"


async def apply(
    settings: KafkaSettings,
    wanted: Sequence[Grant],
    principals: Mapping[str, str] | None = None,
    passwords: Mapping[str, str] | None = None,
) -> tuple[int, int]:
    """Make the access list of these roles be this one, and no more; returns how many entries were added and removed.

    Entries of other principals stay.

    Args:
        principals: the names of roles in this Kafka, where they differ.
        passwords: users to be made, or to be given this password, with SCRAM-SHA-512.

    Raises:
        ClusterRefused: we are not let in.
        requests.Refused: we may not do it.
    """
    names = principals or {}
    target = {_acl(grant, principal(grant.role, names)) for grant in wanted}
    ours = {acl[3] for acl in target}
    async with administrator(settings) as admin:
        if passwords:
            await requests.set_passwords(admin, passwords)
        present = {acl for acl in await requests.acls(admin) if acl[3] in ours}
        await requests.create_acls(admin, target - present)
        await requests.delete_acls(admin, present - target)
    return len(target - present), len(present - target)


def _acl(grant: Grant, who: str) -> requests.Acl:
    pattern, operation = _PATTERNS[grant.pattern], _OPERATIONS[grant.operation]
    return _TYPES[grant.kind], grant.name, pattern, who, "*", operation, _ALLOW


def _named(text: str) -> tuple[str, str]:
    role, mark, name = text.partition("=")
    if not (role and mark and name):
        raise argparse.ArgumentTypeError("write ROLE=NAME, such as data=sa-1234")
    return role, name


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.kafka.access", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--print", action="store_true", help="kafka-acls commands, one a line")
    action.add_argument("--json", action="store_true", help="the list as JSON")
    action.add_argument("--apply", action="store_true", help="change the Kafka of DRIFTWHEEL_KAFKA_BOOTSTRAP")
    parser.add_argument("--user", type=_named, action="append", default=[], metavar="ROLE=NAME",
                        help="how a role is called in your Kafka, if not by its own name; repeatable")  # fmt: skip
    parser.add_argument("--foreign", action="append", metavar="NAME",
                        help=f"a producer outside the platform; repeatable (default: {FOREIGN})")  # fmt: skip
    arguments = parser.parse_args()
    settings, names = AdminSettings(), dict(arguments.user)
    try:
        wanted = grants(arguments.foreign or (FOREIGN,))
        if arguments.print:
            print("\n".join(commands(wanted, names, settings.kafka_bootstrap)))
        elif arguments.json:
            print(json.dumps([asdict(g) | {"principal": principal(g.role, names)} for g in wanted], indent=1))
        else:
            passwords = {user: word.get_secret_value() for user, word in settings.kafka_users.items()}
            added, removed = asyncio.run(apply(settings, wanted, names, passwords))
            print(f"access list: {len(wanted)} entries, {added} added, {removed} removed")
    except (ClusterRefused, requests.Refused, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
