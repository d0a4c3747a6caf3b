"""How every Kafka client of a process connects: one place for addresses, TLS and credentials."""

import asyncio
import logging
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import create_conn
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from shared.delivery import records
from shared.delivery.settings import KafkaSettings

if TYPE_CHECKING:  # loaded where it is used: who only reads a topic starts without a framework
    from faststream.security import BaseSecurity

_PROBE_MS = 5_000
_RENEW_SECONDS = 30.0


_calm = logging.getLogger("aiokafka.conn")


def _not_in_the_clear(record: logging.LogRecord) -> bool:
    """aiokafka warns of PLAIN without TLS at every login; settings allow it on loopback alone."""
    return "in the clear" not in str(record.msg)


class NotConfigured(Exception):
    """A file that the settings name cannot be used; the message says which setting, and why."""


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments for any aiokafka client: producer, consumer or admin.

    Raises:
        NotConfigured: a certificate or key file is missing or no PEM.
    """
    records.install()
    secure = "SSL" if settings.tls else "PLAINTEXT"
    common = {
        "bootstrap_servers": settings.servers,
        "security_protocol": f"SASL_{secure}" if settings.mechanism else secure,
        "ssl_context": _tls(settings),
    }
    if settings.mechanism == "OAUTHBEARER":
        return common | {"sasl_mechanism": settings.mechanism, "sasl_oauth_token_provider": Tokens(settings)}
    if settings.mechanism:
        _calm.addFilter(_not_in_the_clear)
        password = settings.kafka_password.get_secret_value()
        user = {"sasl_plain_username": settings.kafka_username, "sasl_plain_password": password}
        return common | user | {"sasl_mechanism": settings.mechanism}
    return common


def broker_connection(settings: KafkaSettings) -> dict[str, Any]:
    """The same for a FastStream broker, which has words of its own for it. Raises NotConfigured."""
    records.install()
    arguments = {"bootstrap_servers": settings.servers, "security": _security(settings)}
    if settings.mechanism == "OAUTHBEARER":
        arguments["sasl_oauth_token_provider"] = Tokens(settings)
    return arguments


def _security(settings: KafkaSettings) -> "BaseSecurity":
    from faststream.security import BaseSecurity, SASLOAuthBearer, SASLPlaintext, SASLScram256, SASLScram512

    passwords = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    context = _tls(settings)
    if settings.mechanism is None:
        return BaseSecurity(context)
    if settings.mechanism == "OAUTHBEARER":
        return SASLOAuthBearer(context)
    kind = passwords[settings.mechanism]
    return kind(settings.kafka_username, settings.kafka_password.get_secret_value(), context)


def principal(settings: KafkaSettings) -> str:
    """Who we are to Kafka, for people."""
    if settings.mechanism:
        return settings.kafka_username or f"the bearer of {settings.kafka_token_file}"
    return "the owner of our certificate" if settings.kafka_certificate_file else "a client without a name"


async def refusal(settings: KafkaSettings, error: BaseException) -> str | None:
    """What an error of one of our clients says about how we stand with Kafka, in words; None if it says nothing."""
    if isinstance(error, TopicAuthorizationFailedError | GroupAuthorizationFailedError):
        return f"Kafka does not give {principal(settings)} a right that it needs: python -m infra.kafka.access --apply."
    if isinstance(error, KafkaConnectionError | NotConfigured):
        return await trouble(settings)
    return None


async def trouble(settings: KafkaSettings) -> str | None:
    """Why Kafka does not let us in, in words that name the principal and no secret; None when it does.

    Opens a connection of its own to each broker until one answers: clients only say that they could not bootstrap.
    """
    found = None
    for server in settings.servers:
        found = await _trouble_at(server, settings)
        if found is None:
            return None
    return found or "No broker is named: set KAFKA_BOOTSTRAP."


async def _trouble_at(server: str, settings: KafkaSettings) -> str | None:
    who, host, port = principal(settings), *_address(server)
    try:
        arguments = {
            name: value for name, value in connection(settings).items() if name != "bootstrap_servers"
        }
        client = await create_conn(host, port, request_timeout_ms=_PROBE_MS, **arguments)
        try:
            await client.send(MetadataRequest([]))
        finally:
            client.close()
    except NotConfigured as error:
        return str(error)
    except SaslAuthenticationFailed:
        return (
            f"Kafka at {server} refuses {who}: there is no such user, or the password or token is not right."
        )
    except UnsupportedSaslMechanismError:
        return f"Kafka at {server} does not know the mechanism {settings.mechanism}: set KAFKA_MECHANISM."
    except IllegalSaslStateError:
        return f"Kafka at {server} asks nobody for a name there: {who} meant another port, or no user."
    except ssl.SSLCertVerificationError as error:
        return (
            f"The certificate of Kafka at {server} is not accepted ({error.verify_message}): "
            "KAFKA_CA_FILE names whom to trust."
        )
    except ssl.SSLError as error:
        return f"Kafka at {server} breaks off TLS ({error.reason or 'no reason'}): a port without TLS, or it wants a certificate."
    except TokenRefused as error:
        return error.args[0] if error.args else "There is no token."
    except (KafkaError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        if isinstance(error, KafkaError):
            return f"Kafka at {server} hangs up on {who}: it may want TLS, or a user and password."
        return f"Kafka at {server} does not answer ({type(error).__name__})."
    return None


def _address(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    return host.strip("[]") or server, int(port) if port.isdigit() else 9092


def _tls(settings: KafkaSettings) -> ssl.SSLContext | None:
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise NotConfigured(_unusable("KAFKA_CA_FILE", settings.kafka_ca_file, error)) from None
    context.check_hostname = settings.kafka_check_hostname
    if settings.kafka_certificate_file:
        password = settings.kafka_key_password.get_secret_value()
        try:
            # A key without the password it needs must fail: OpenSSL would ask for it on the terminal.
            context.load_cert_chain(
                settings.kafka_certificate_file, settings.kafka_key_file, lambda: password
            )
        except (OSError, ssl.SSLError) as error:
            name = "KAFKA_CERTIFICATE_FILE or KAFKA_KEY_FILE"
            raise NotConfigured(_unusable(name, settings.kafka_certificate_file, error)) from None
    return context


def _unusable(setting: str, file: Path | None, error: OSError) -> str:
    why = error.strerror or type(error).__name__
    return f"{setting}: {file} cannot be used as PEM ({why})."


class TokenRefused(KafkaConnectionError):  # type: ignore[misc]  # to clients one more connection that failed
    """There is no token to log in with; the message says why."""


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Tokens for OAUTHBEARER: from a file that others renew, or by client credentials, kept until shortly before they end."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._token, self._until = "", 0.0
        self._asking = asyncio.Lock()

    async def token(self) -> str:
        """Raises TokenRefused."""
        if file := self._settings.kafka_token_file:
            try:
                return (await asyncio.to_thread(file.read_text)).strip()
            except OSError as error:
                raise TokenRefused(f"KAFKA_TOKEN_FILE: {file} cannot be read ({error.strerror}).") from error
        async with self._asking:
            if time.monotonic() >= self._until:
                self._token, lifetime = await self._ask()
                self._until = time.monotonic() + max(0.0, lifetime - _RENEW_SECONDS)
            return self._token

    def extensions(self) -> dict[str, str]:
        return self._settings.kafka_token_extensions

    async def _ask(self) -> tuple[str, float]:
        import aiohttp

        wanted = {"grant_type": "client_credentials"}
        if self._settings.kafka_token_scope:
            wanted["scope"] = self._settings.kafka_token_scope
        user, secret = self._settings.kafka_username, self._settings.kafka_password.get_secret_value()
        where = f"KAFKA_TOKEN_URL: {self._settings.kafka_token_url}"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PROBE_MS / 1_000)) as session,
                session.post(
                    self._settings.kafka_token_url, data=wanted, auth=aiohttp.BasicAuth(user, secret)
                ) as answer,
            ):
                if answer.status != 200:
                    raise TokenRefused(f"{where} gives {user} no token (status {answer.status}).")
                found = await answer.json(content_type=None)
                return str(found["access_token"]), float(found.get("expires_in", 60))
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise TokenRefused(f"{where} gives {user} no token ({type(error).__name__}).") from error
