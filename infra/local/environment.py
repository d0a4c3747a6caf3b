"""What a service is told, as environment variables: the same names on a laptop and in containers."""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from infra.local.credentials import SERVICES


@dataclass(frozen=True)
class Addresses:
    """Where everything is, as seen by the services. `postgres` is a URL without role, password and database."""

    kafka: str
    postgres: str
    s3: str
    engine: str
    http_host: str
    jwks_file: str
    base_model: str
    adapter_cache: str


def database_url(server: str, role: str, password: str, database: str) -> str:
    """The server's URL, with its parameters, for this role and database."""
    url = urlsplit(server)
    address = url.netloc.rpartition("@")[2]
    return url._replace(netloc=f"{role}:{quote(password, safe='')}@{address}", path=f"/{database}").geturl()


def service_environment(
    service: str, at: Addresses, port: int, password: str, s3_key: tuple[str, str], engine: str
) -> dict[str, str]:
    """Settings of one service, prefix `DRIFTWHEEL_<SERVICE>__`. Raises KeyError for a service that does not exist."""
    if service not in SERVICES:
        raise KeyError(f"no service {service!r}; there are {', '.join(SERVICES)}")
    values = {
        "DATABASE_URL": database_url(at.postgres, service, password, service),
        "KAFKA_BOOTSTRAP": at.kafka,
        "S3_ENDPOINT": at.s3,
        "S3_ACCESS_KEY": s3_key[0],
        "S3_SECRET_KEY": s3_key[1],
        "HTTP_HOST": at.http_host,
        "HTTP_PORT": str(port),
        "AUTH_JWKS_FILE": at.jwks_file,
        "BASE_MODEL": at.base_model,
    }
    if service == "serving":
        values |= {"ENGINE": engine, "ENGINE_URL": at.engine, "ADAPTER_CACHE": at.adapter_cache}
    return {f"DRIFTWHEEL_{service.upper()}__{name}": value for name, value in values.items()}
