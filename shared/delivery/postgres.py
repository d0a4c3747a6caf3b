"""The one place where connections to PostgreSQL are made: a URL, and the time-outs that it does not name.

A server that goes away without a word (fail-over, a cut network, a frozen machine) is noticed three ways: the kernel sees
unanswered packets, the server ends what takes too long, and the client hangs up on a server that does neither. The URL
may say all of it otherwise (`?connect_timeout=3&options=-c%20statement_timeout%3D30s`), and name several servers:
`postgresql://user@one:5432,two:5432/db?target_session_attrs=read-write` finds the one that leads after a fail-over.
"""

import asyncio
import os
import re
import socket
from collections.abc import Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

RV = TypeVar("RV")
Connection = psycopg.AsyncConnection[Any]

NETWORK = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # milliseconds
}
SESSION = {
    # A process that is frozen or cut off in a transaction holds its locks for no longer: its successor needs them.
    "idle_in_transaction_session_timeout": "30s",
    "lock_timeout": "40s",  # longer than the line above: who waits for a lock outlives who forgot it
    "statement_timeout": "60s",
}
GRACE_SECONDS = 5.0
_UNITS = {"": 0.001, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


def parameters(url: str, **session: str) -> dict[str, Any]:
    """libpq's parameters: those of the URL, and the defaults for what it leaves out.

    Args:
        session: further settings of the server's session, such as `statement_timeout="0"`.
    """
    given = conninfo_to_dict(url)
    options = str(given.pop("options", ""))
    said = [f"-c {name}={value}" for name, value in (SESSION | session).items() if f"{name}=" not in options]
    return NETWORK | given | {"options": " ".join([*said, options]).strip()}


def patience(settings: Mapping[str, Any]) -> float | None:
    """Seconds after which a server that has not answered a statement never will; None when statements may last for ever."""
    found = re.findall(r"statement_timeout=(\d+)(\w*)", str(settings["options"]))
    number, unit = found[-1] if found else ("0", "")
    return float(number) * _UNITS[unit] + GRACE_SECONDS if float(number) else None


class Impatient(psycopg.AsyncConnection[Any]):
    """Hangs up on a server that is silent for longer than its own time-out of a statement; raises OperationalError then."""

    patience: float | None = None

    async def wait(self, gen: PQGen[RV], *args: Any, **named: Any) -> RV:
        if self.patience is None:
            return await super().wait(gen, *args, **named)
        late = asyncio.get_running_loop().call_later(self.patience, self._hang_up)
        try:
            return await super().wait(gen, *args, **named)
        finally:
            late.cancel()

    def _hang_up(self) -> None:
        if not self.closed:
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as ours:
                ours.shutdown(socket.SHUT_RDWR)


def impatient(url: str, **session: str) -> type[Impatient]:
    """The class of connections for this URL: pools ask for one."""
    return type("Impatient", (Impatient,), {"patience": patience(parameters(url, **session))})


async def connect(
    url: str, *, autocommit: bool = False, row_factory: Any = None, **session: str
) -> Connection:
    """A connection of our own. Raises psycopg.OperationalError when no server of the URL answers in time."""
    rows = {} if row_factory is None else {"row_factory": row_factory}
    return await impatient(url, **session).connect(
        **parameters(url, **session), autocommit=autocommit, **rows
    )
