"""The one place where a client of the object store is made."""

from minio import Minio
from minio.credentials import AWSConfigProvider, EnvAWSProvider, IamAwsProvider, Provider, StaticProvider
from minio.credentials import Credentials as Keys
from minio.error import MinioException
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from shared.artifacts.settings import S3Settings


class NoKeys(MinioException):  # type: ignore[misc]
    """The place that keys come from has none, or does not answer."""


def connect(settings: S3Settings, connect_seconds: float = 3.0, read_seconds: float = 60.0) -> Minio:
    """A client that does not retry: whoever asks decides whether to ask again. Nothing is sent yet."""
    pool = PoolManager(
        timeout=Timeout(connect=connect_seconds, read=read_seconds),
        maxsize=16,
        retries=False,
        ca_certs=str(settings.s3_ca_file) if settings.s3_ca_file else None,
    )
    client = Minio(
        settings.host,
        secure=settings.secure,
        region=settings.s3_region,
        credentials=_provider(settings, pool),
        http_client=pool,
    )
    if settings.s3_addressing == "path":
        client.disable_virtual_style_endpoint()
    elif settings.s3_addressing == "virtual":
        client.enable_virtual_style_endpoint()
    return client


class _Source(Provider):  # type: ignore[misc]
    """A provider of the SDK whose failures are told from everybody else's."""

    def __init__(self, kind: str, provider: Provider) -> None:
        self._kind = kind
        self._provider = provider

    def retrieve(self) -> Keys:
        try:
            return self._provider.retrieve()
        except (ValueError, KeyError, OSError, HTTPError) as error:
            raise NoKeys(f"no keys for the object store from {self._kind}: {type(error).__name__}") from error


def _provider(settings: S3Settings, pool: PoolManager) -> Provider | None:
    """Where keys come from; None asks without a key."""
    kind = settings.s3_credentials
    if kind == "static":
        token = settings.s3_session_token.get_secret_value() or None
        secret = settings.s3_secret_key.get_secret_value()
        return StaticProvider(settings.s3_access_key, secret, token) if settings.s3_access_key else None
    if kind == "role":
        sts = settings.s3_sts_endpoint or None
        return _Source(kind, IamAwsProvider(custom_endpoint=sts, http_client=pool, region=settings.s3_region))
    return _Source(kind, EnvAWSProvider() if kind == "environment" else AWSConfigProvider())
