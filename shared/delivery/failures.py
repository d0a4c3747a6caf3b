"""One algebra of failure, for bus, jobs, relay and HTTP: what an error means for the work it interrupted.

Decided by SQLSTATE and client code, never by the class that a driver happens to raise.
"""

from dataclasses import dataclass
from typing import Literal

import psycopg
from aiokafka.errors import KafkaError
from procrastinate.exceptions import ConnectorException
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.contracts.errors import DriftwheelError, Unavailable

Kind = Literal["outage", "retry", "poison", "bug"]
_AWAY = {"08", "53", "57", "58"}
"""Classes of SQLSTATE in which the server, not the statement, is the cause: connection, resources, operator, system."""
_AGAIN = {"25P03", "40001", "40003", "40P01", "55P03", "57014"}
"""The transaction was ended by others (idle, serialisation, deadlock, lock, time-out): the same one may pass."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What to do about an error.

    Attributes:
        kind: `outage`: a part is away, wait for it for as long as it takes; `retry`: the same may pass in a moment,
            bounded; `poison`: this input never passes; `bug`: nobody expected it.
        part: what is away: `postgres`, `kafka`, `s3`, or where it is not known, `network`.
    """

    kind: Kind
    part: str | None = None

    @property
    def passes(self) -> bool:
        """Whether the same work may succeed later."""
        return self.kind in ("outage", "retry")


def classify(error: BaseException) -> Failure:
    """What an error means. An error that wraps another one is judged by the innermost that is known."""
    match error:
        case Unavailable():
            return Failure("outage", "network")
        case DriftwheelError():
            return Failure("retry" if error.retryable else "poison")
        case PoolTimeout():
            return Failure("outage", "postgres")
        case DBAPIError() if isinstance(error.orig, psycopg.Error):
            return _sql(error.orig)
        case psycopg.Error():
            return _sql(error)
        case ConnectorException():
            cause = error.__cause__
            return _sql(cause) if isinstance(cause, psycopg.Error) else Failure("outage", "postgres")
        case SQLAlchemyError():
            return Failure("bug")
        case KafkaError():
            return Failure("outage", "kafka") if error.retriable else Failure("poison")
        case ConnectionError() | TimeoutError():
            return Failure("outage", "network")
        case _:
            return Failure("bug")


def _sql(error: psycopg.Error) -> Failure:
    state = error.sqlstate
    if state is None:  # the client's own: no connection, or it was lost
        return Failure("outage" if isinstance(error, psycopg.OperationalError) else "bug", "postgres")
    if state in _AGAIN:
        return Failure("retry", "postgres")
    if state[:2] in _AWAY:
        return Failure("outage", "postgres")
    return Failure("poison" if state[:2] in {"22", "54"} else "bug")
