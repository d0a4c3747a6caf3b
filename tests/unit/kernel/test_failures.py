"""What an error means is decided by its code: an outage waits, poison is buried, and nothing waits for ever in vain."""

import asyncio
import errno
import socket
from types import SimpleNamespace
from typing import Any

import aiohttp
import psycopg
import pytest
from aiokafka import errors as kafka
from minio.error import S3Error, ServerError
from procrastinate.exceptions import ConnectorException
from psycopg import errors as pg
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError, InvalidRequestError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from urllib3.exceptions import MaxRetryError, ProtocolError

from shared.contracts.errors import Conflict, Invalid, NotFound, Poison, RetryLater, Unavailable
from shared.delivery.failures import classify


def s3(code: str) -> S3Error:
    return S3Error(SimpleNamespace(), code, None, None, None, None)  # type: ignore[arg-type]


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def invalid() -> ValidationError:
    with pytest.raises(ValidationError) as refused:
        type("Model", (BaseModel,), {"__annotations__": {"n": int}}).model_validate({})  # type: ignore[attr-defined]
    return refused.value


def wrapped(error: psycopg.Error) -> DBAPIError:
    return OperationalError("SELECT", {}, error)


def answered(status: int) -> aiohttp.ClientResponseError:
    info: Any = SimpleNamespace(real_url="http://x")
    return aiohttp.ClientResponseError(info, (), status=status)


CASES = [
    (RetryLater("not yet"), "retry", None),
    (Poison("never"), "poison", None),
    (Invalid("no"), "poison", None),
    (NotFound("gone"), "poison", None),
    (Conflict("no"), "poison", None),
    (Unavailable("away"), "outage", "network"),
    (caused(Unavailable("away"), ProtocolError()), "outage", "s3"),
    (caused(Unavailable("refused"), s3("AccessDenied")), "outage", "network"),
    (caused(Unavailable("away"), OSError(errno.ENOSPC, "full")), "outage", "disk"),
    (invalid(), "poison", None),
    # PostgreSQL, by SQLSTATE; bare and as SQLAlchemy and Procrastinate wrap it
    (pg.ProgramLimitExceeded(), "poison", None),
    (wrapped(pg.ProgramLimitExceeded()), "poison", None),
    (caused(ConnectorException(), pg.ProgramLimitExceeded()), "poison", None),
    (pg.UntranslatableCharacter(), "poison", None),
    (pg.NumericValueOutOfRange(), "poison", None),
    (pg.AdminShutdown(), "outage", "postgres"),
    (wrapped(pg.CannotConnectNow()), "outage", "postgres"),
    (pg.DiskFull(), "outage", "postgres"),
    (pg.TooManyConnections(), "outage", "postgres"),
    (pg.InvalidPassword(), "outage", "postgres"),
    (pg.InvalidCatalogName(), "outage", "postgres"),
    (pg.InsufficientPrivilege(), "outage", "postgres"),
    (pg.ReadOnlySqlTransaction(), "outage", "postgres"),
    (pg.SerializationFailure(), "retry", None),
    (pg.DeadlockDetected(), "retry", None),
    (pg.LockNotAvailable(), "retry", None),
    (pg.QueryCanceled(), "retry", None),
    (pg.IdleInTransactionSessionTimeout(), "retry", None),
    (pg.UniqueViolation(), "retry", None),
    (pg.FeatureNotSupported(), "retry", None),
    (pg.InternalError_(), "retry", None),
    (pg.NotNullViolation(), "bug", None),
    (pg.UndefinedTable(), "bug", None),
    (psycopg.OperationalError("connection refused"), "outage", "postgres"),
    (psycopg.InterfaceError("the connection is closed"), "retry", None),
    (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), "poison", None),
    (psycopg.ProgrammingError("no"), "bug", None),
    (PoolTimeout(), "outage", "postgres"),
    (DBAPIError("SELECT", {}, pg.SyntaxError(), connection_invalidated=True), "outage", "postgres"),
    (StatementError("no", "SELECT", {}, ValueError("no")), "bug", None),
    (InvalidRequestError(), "bug", None),
    (ConnectorException(), "outage", "postgres"),
    # Kafka, by error code
    (kafka.KafkaConnectionError(), "outage", "kafka"),
    (kafka.KafkaTimeoutError(), "outage", "kafka"),
    (kafka.NotEnoughReplicasError(), "outage", "kafka"),
    (kafka.UnknownTopicOrPartitionError(), "outage", "kafka"),
    (kafka.TopicAuthorizationFailedError(), "outage", "kafka"),
    (kafka.SaslAuthenticationFailed(), "outage", "kafka"),
    (kafka.MessageSizeTooLargeError(), "poison", None),
    (kafka.InvalidTopicError(), "poison", None),
    (kafka.ProducerFenced(), "retry", None),
    (kafka.OutOfOrderSequenceNumber(), "retry", None),
    (kafka.InvalidReplicationFactorError(), "bug", None),
    # S3, by code
    (s3("SlowDown"), "outage", "s3"),
    (s3("InternalError"), "outage", "s3"),
    (s3("RequestTimeTooSkewed"), "outage", "s3"),
    (s3("InvalidAccessKeyId"), "outage", "s3"),
    (s3("AccessDenied"), "outage", "network"),
    (s3("NoSuchBucket"), "outage", "network"),
    (s3("NoSuchKey"), "poison", None),
    (s3("EntityTooLarge"), "poison", None),
    (ServerError("bad gateway", 502), "outage", "s3"),
    (MaxRetryError(SimpleNamespace(), "/"), "outage", "s3"),  # type: ignore[arg-type]
    # other calls
    (answered(503), "outage", "network"),
    (answered(404), "bug", None),
    (aiohttp.ServerDisconnectedError(), "outage", "network"),
    (ConnectionResetError(), "outage", "network"),
    (TimeoutError(), "outage", "network"),
    (socket.gaierror(), "outage", "network"),
    (OSError(errno.EHOSTUNREACH, "no route"), "outage", "network"),
    (OSError(errno.ENOSPC, "full"), "outage", "disk"),
    (FileNotFoundError(errno.ENOENT, "none"), "bug", None),
    # what nobody knows
    (ValueError("no"), "bug", None),
    (caused(RuntimeError("wrapped"), pg.AdminShutdown()), "outage", "postgres"),
    (caused(KeyError("wrapped"), ValueError("no")), "bug", None),
    (ExceptionGroup("several", [RetryLater("not yet"), Poison("never")]), "poison", None),
    (ExceptionGroup("several", [RetryLater("not yet"), ConnectionError()]), "retry", None),
    (asyncio.CancelledError(), "bug", None),
]


@pytest.mark.parametrize(
    ("error", "kind", "part"), CASES, ids=[f"{i}-{type(c[0]).__name__}" for i, c in enumerate(CASES)]
)
def test_an_error_is_judged_by_its_code(error: BaseException, kind: str, part: str | None) -> None:
    failure = classify(error)
    assert (failure.kind, failure.part) == (kind, part)


@pytest.mark.parametrize(
    "error", [TimeoutError(), Unavailable("away"), s3("NoSuchBucket"), RetryLater("x"), ValueError()]
)
def test_nothing_is_waited_for_without_end_unless_a_part_is_named(error: BaseException) -> None:
    assert classify(error).bounded


@pytest.mark.parametrize(
    "error", [pg.AdminShutdown(), PoolTimeout(), kafka.KafkaConnectionError(), s3("SlowDown")]
)
def test_an_outage_of_a_named_part_is_waited_out(error: BaseException) -> None:
    assert not classify(error).bounded


def test_a_chain_of_causes_that_has_no_end_is_a_bug() -> None:
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one
    assert classify(one).kind == "bug"
