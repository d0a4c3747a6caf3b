"""One algebra of failure, for bus, jobs, relay and HTTP: what an error means for the work it interrupted.

Decided by SQLSTATE and client code, never by the class that a driver happens to raise.
"""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from socket import gaierror
from ssl import SSLError
from typing import Any, Literal

import aiohttp
import psycopg
from aiokafka import errors as kafka
from minio.error import InvalidResponseError, S3Error, ServerError
from procrastinate.exceptions import ConnectorException
from pydantic import ValidationError
from sqlalchemy.exc import DisconnectionError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from urllib3.exceptions import HTTPError

from shared.contracts.errors import DriftwheelError, Unavailable

Kind = Literal["outage", "retry", "poison", "bug"]


@dataclass(frozen=True, slots=True)
class Failure:
    """What to do about an error.

    Attributes:
        kind: `outage`: a part is away, wait for it; `retry`: the same may pass in a moment, bounded; `poison`: this input
            never passes; `bug`: nobody expected it.
        part: what is away: `postgres`, `kafka`, `s3`, `disk`, or where the error does not say, `network`.
    """

    kind: Kind
    part: str | None = None

    @property
    def passes(self) -> bool:
        """Whether the same work may succeed later."""
        return self.kind in ("outage", "retry")

    @property
    def bounded(self) -> bool:
        """Whether patience must end. Only a named part is waited for without end: a time-out of the work itself looks
        like an outage of something, and would else hold up what comes after it for ever."""
        return self.kind != "outage" or self.part == "network"


BUG, POISON, RETRY = Failure("bug"), Failure("poison"), Failure("retry")
NETWORK, DISK = Failure("outage", "network"), Failure("outage", "disk")
POSTGRES, KAFKA, S3 = (Failure("outage", part) for part in ("postgres", "kafka", "s3"))

_SQL: Mapping[str, Failure] = {
    "08": POSTGRES,  # connection
    "28": POSTGRES,  # a refused login: a rotation of credentials, or a server that is being set up
    "3D": POSTGRES,  # no such database: as above
    "53": POSTGRES,  # out of disk, memory, connections
    "57": POSTGRES,  # shut down, crashed, starting
    "58": POSTGRES,  # the system below
    "F0": POSTGRES,
    "25006": POSTGRES,  # read only: a standby during a fail-over
    "42501": POSTGRES,  # a right was taken away: no input is the cause
    "40": RETRY,  # serialisation, deadlock
    "XX": RETRY,  # an error inside the server: this input may be the cause
    "0A000": RETRY,  # a prepared plan of the schema before a migration
    "26000": RETRY,
    "25P02": RETRY,
    "25P03": RETRY,  # we were idle too long inside the transaction
    "55": RETRY,  # in use, locked
    "57014": RETRY,  # cancelled or timed out: the statement, not the server
    "23503": RETRY,  # a race between two transactions ends like this
    "23505": RETRY,
    "23P01": RETRY,
    "22": POISON,  # a value the database cannot hold
    "54": POISON,  # too large for an index, a row, a statement
}
"""By SQLSTATE, or its class: the longer match wins. What is not here is a bug."""

_KAFKA: Mapping[type[Exception], Failure] = {
    error: failure
    for failure, errors in (
        (
            POISON,
            (
                kafka.MessageSizeTooLargeError,
                kafka.RecordTooLargeError,
                kafka.RecordListTooLargeError,
                kafka.InvalidTopicError,
                kafka.InvalidTimestampError,
                kafka.PolicyViolationError,
            ),
        ),
        (
            KAFKA,
            (
                kafka.TopicAuthorizationFailedError,
                kafka.GroupAuthorizationFailedError,
                kafka.ClusterAuthorizationFailedError,
                kafka.TransactionalIdAuthorizationFailed,
                kafka.SaslAuthenticationFailed,
                kafka.AuthenticationFailedError,
                kafka.AuthenticationMethodNotSupported,
                kafka.UnsupportedSaslMechanismError,
                kafka.IllegalSaslStateError,
                kafka.KafkaUnavailableError,
                kafka.KafkaTimeoutError,
                kafka.BrokerNotAvailableError,
                kafka.ReplicaNotAvailableError,
                kafka.QuotaViolationError,
                kafka.UnknownError,
            ),
        ),
        (
            RETRY,
            (
                kafka.ProducerFenced,
                kafka.ProducerClosed,
                kafka.OutOfOrderSequenceNumber,
                kafka.InvalidProducerEpoch,
                kafka.InvalidProducerIdMapping,
                kafka.UnknownProducerId,
                kafka.CommitFailedError,
                kafka.IllegalGenerationError,
                kafka.UnknownMemberIdError,
                kafka.RebalanceInProgressError,
                kafka.OffsetOutOfRangeError,
                kafka.IllegalStateError,
            ),
        ),
    )
    for error in errors
}

_S3_POISON = {"BadDigest", "EntityTooLarge", "InvalidArgument", "InvalidBucketName", "InvalidObjectName"}
_S3_POISON |= {"KeyTooLongError", "MalformedXML", "NoSuchKey", "NoSuchVersion", "PreconditionFailed"}
_S3_REFUSED = {"AccessDenied", "AllAccessDisabled", "NoSuchBucket"}
"""Also what a reference to a place that is not ours gets. All other codes are the store's: busy, broken, its clock, its
credentials."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS}
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT}
_SEVERITY: tuple[Kind, ...] = ("outage", "retry", "poison", "bug")
_FARTHEST = 8
_Known = Callable[[Any], Failure | None]


def classify(error: BaseException) -> Failure:
    """What an error means. One that nobody knows is judged by the error that it was raised from."""
    here: BaseException | None = error
    for _ in range(_FARTHEST):
        if here is None:
            break
        if failure := _known(here):
            return failure
        here = here.__cause__
    return BUG


def _known(error: BaseException) -> Failure | None:
    for kind, decide in _TABLE:
        if isinstance(error, kind):
            return decide(error)
    return None


def _platform(error: DriftwheelError) -> Failure:
    if isinstance(error, Unavailable):
        below = classify(error.__cause__) if error.__cause__ else BUG
        return below if below.kind == "outage" else NETWORK
    return RETRY if error.retryable else POISON


def _statement(error: StatementError) -> Failure:
    if getattr(error, "connection_invalidated", False):
        return POSTGRES
    return classify(error.orig) if error.orig else BUG


def _sql(error: psycopg.Error) -> Failure:
    state = error.sqlstate
    if state is not None:
        return _SQL.get(state) or _SQL.get(state[:2]) or BUG
    match error:  # the client's own
        case psycopg.OperationalError():
            return POSTGRES
        case psycopg.InterfaceError():  # the connection was lost before
            return RETRY
        case psycopg.DataError():
            return POISON
        case _:
            return BUG


def _queue(error: ConnectorException) -> Failure:
    return classify(error.__cause__) if error.__cause__ else POSTGRES


def _kafka(error: kafka.KafkaError) -> Failure:
    for kind in type(error).__mro__:
        if kind in _KAFKA:
            return _KAFKA[kind]
    return KAFKA if error.retriable else BUG


def _s3(error: S3Error) -> Failure:
    if error.code in _S3_REFUSED:
        return NETWORK
    return POISON if error.code in _S3_POISON else S3


def _http(error: aiohttp.ClientResponseError) -> Failure:
    return NETWORK if error.status >= 500 or error.status in {408, 425, 429} else BUG


def _system(error: OSError) -> Failure | None:
    if error.errno in _FULL:
        return DISK
    return NETWORK if error.errno in _UNREACHABLE else None


def _several(error: BaseExceptionGroup[BaseException]) -> Failure:
    """The gravest: what one part of the work never passes, the whole does not."""
    return max(map(classify, error.exceptions), key=lambda failure: _SEVERITY.index(failure.kind))


_TABLE: tuple[tuple[type[BaseException], _Known], ...] = (
    (DriftwheelError, _platform),
    (ValidationError, lambda _: POISON),
    (PoolTimeout, lambda _: POSTGRES),
    (DisconnectionError, lambda _: POSTGRES),
    (StatementError, _statement),
    (psycopg.Error, _sql),
    (ConnectorException, _queue),
    (kafka.KafkaError, _kafka),
    (S3Error, _s3),
    (ServerError, lambda _: S3),
    (InvalidResponseError, lambda _: S3),
    (HTTPError, lambda _: S3),  # urllib3: only the store's client uses it
    (aiohttp.ClientResponseError, _http),
    (aiohttp.ClientConnectionError, lambda _: NETWORK),
    (aiohttp.ClientPayloadError, lambda _: NETWORK),
    (ConnectionError, lambda _: NETWORK),
    (TimeoutError, lambda _: NETWORK),
    (gaierror, lambda _: NETWORK),
    (SSLError, lambda _: NETWORK),
    (OSError, _system),
    (BaseExceptionGroup, _several),
)
"""First match wins, so a class stands before its bases."""
