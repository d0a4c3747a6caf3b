"""How to reach an object store: where it is, who we are to it, how its buckets are named and addressed."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, model_validator

Credentials = Literal["static", "environment", "file", "role"]


class S3Connection(BaseModel):
    """What differs from store to store; the defaults are those of the embedded one."""

    s3_access_key: str = Field("", description="Access key; for credentials `static`.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Its secret key.")
    s3_session_token: SecretStr = Field(SecretStr(""), description="Session token of temporary keys.")
    s3_credentials: Credentials = Field(
        "static",
        description="Where keys come from: `static` (the settings above), `environment` (AWS_ACCESS_KEY_ID and so on), `file` "
        "(AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE), `role` (a web identity token, a container's or a machine's role).",
    )
    s3_sts_endpoint: str = Field(
        "",
        description="Where a web identity token is exchanged for keys; empty: AWS's own service of the region.",
    )
    s3_region: str = Field("us-east-1", min_length=1, description="Region that requests are signed for.")
    s3_bucket_prefix: str = Field(
        "",
        pattern=r"\A([a-z0-9][a-z0-9-]{0,39})?\z",
        description="Put before every bucket's name, where names are shared with others: `acme-` makes `acme-datasets`.",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Bucket in the path or in the host name; `auto` uses the host name on amazonaws.com alone.",
    )
    s3_ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust; unset: those of the system."
    )


class S3Settings(S3Connection):
    """One store, as one process sees it."""

    s3_endpoint: str = Field("http://127.0.0.1:8333", description="Object store; http or https.")

    @property
    def host(self) -> str:
        return urlsplit(self.s3_endpoint).netloc

    @property
    def secure(self) -> bool:
        return urlsplit(self.s3_endpoint).scheme == "https"

    @model_validator(mode="after")
    def _an_address(self) -> Self:
        url = urlsplit(self.s3_endpoint)
        if url.scheme not in ("http", "https") or not url.netloc or url.path.strip("/") or url.query:
            raise ValueError("S3_ENDPOINT must be http(s)://host[:port], without a path")
        return self

    def bucket(self, name: str) -> str:
        """The name in the store of one of our buckets."""
        return self.s3_bucket_prefix + name
