"""The lock on the store's inner ports: whoever has no certificate of this store gets no answer from any of them.

SeaweedFS checks S3 keys at its S3 port alone. Its master, volume and filer trust whoever reaches them, over HTTP and
gRPC, so both ask for a client certificate here, and every file needs a token besides.
"""

import datetime
import ipaddress
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.local.credentials import write_private

FILES = ("security.toml", "store-ca.pem", "store.pem", "store.key")
SERVERS = ("master", "volume", "filer")
TOKENS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
DAYS = 3650


def write(folder: Path, seen_as: Path | None = None) -> None:
    """Make new certificates and tokens in the folder; `seen_as` is its name for the store, when that is another.

    The authority's own key is never written: it signs one certificate, and nobody can make a second.
    """
    authority, certificate, key = _certificates()
    write_private(folder / "store-ca.pem", authority)
    write_private(folder / "store.pem", certificate)
    write_private(folder / "store.key", key)
    write_private(folder / "security.toml", configuration(seen_as or folder))


def configuration(folder: Path) -> str:
    """SeaweedFS's security.toml: client certificates on HTTP and gRPC, tokens for files, no page for people."""
    ca, pair = f'ca = "{folder}/store-ca.pem"', f'cert = "{folder}/store.pem"\nkey = "{folder}/store.key"'
    sections = {name: f'key = "{secrets.token_hex(24)}"' for name in TOKENS}
    sections |= {"access": "ui = false", "filer.expose_directory_metadata": "enabled = false", "grpc": ca}
    sections |= {f"grpc.{name}": pair for name in (*SERVERS, "s3", "client")}
    sections |= {f"https.{name}": f"{ca}\n{pair}" for name in SERVERS}
    sections["https.client"] = f"enabled = true\n{ca}\n{pair}"
    return "".join(f"[{name}]\n{body}\n" for name, body in sections.items())


def _certificates() -> tuple[str, str, str]:
    """PEM of an authority, and of one certificate for both ends of a connection with its key."""
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=DAYS)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def start(subject: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name("driftwheel store"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))  # a clock that is set back a little
            .not_valid_after(until)
        )

    authority = (
        start("driftwheel store", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        start("driftwheel store inside", key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return authority.public_bytes(pem).decode(), certificate.public_bytes(pem).decode(), private.decode()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
