"""The broker's jars: an exact list with checksums, fetched once into a cache that all stacks share.

`jars.lock` holds one `sha256  group:artifact:version` per line. `python -m infra.kafka.jars lock VERSION` rewrites it,
`python -m infra.kafka.jars fetch` fills the cache. jgo knows where jars are published; nothing here names a host.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LOCK = Path(__file__).with_name("jars.lock")
LOGGING = (
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"  # without a binding slf4j swallows the broker's log
)
KAFKA = "org.apache.kafka:kafka_2.13"


class JarsBroken(Exception):
    """A jar is missing or its bytes are not the locked ones; the message says which and what to do."""


def read_lock(text: str) -> dict[str, str]:
    """Coordinate → SHA-256."""
    pairs = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {coordinate: digest for digest, coordinate in pairs}


def file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def folder(cache: Path) -> Path:
    """Where this lock's jars lie; a new lock gets a new folder, so that two checkouts can share a cache."""
    return cache / "kafka" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]


def faults(cache: Path) -> list[str]:
    """Names of jars that are missing or differ from the lock; empty when all is well."""
    at = folder(cache)
    return [name for coordinate, digest in read_lock(LOCK.read_text()).items()
            if not (at / (name := file_name(coordinate))).is_file() or _sha256(at / name) != digest]  # fmt: skip


def fetch(cache: Path, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Make every locked jar present and checked; returns the folder. Does nothing when it is complete.

    Raises JarsBroken when a download fails or its checksum is not the locked one; a wrong jar is never kept.
    """
    at = folder(cache)
    stamp = at / "verified"
    if stamp.exists():
        return at
    at.mkdir(parents=True, exist_ok=True)
    wanted = {c: d for c, d in read_lock(LOCK.read_text()).items() if not _is(at / file_name(c), d)}
    progress(f"Kafka: fetching {len(wanted)} jars into {at}")
    with ThreadPoolExecutor(4) as pool:
        for coordinate in pool.map(lambda pair: _fetch_one(cache, at, *pair), wanted.items()):
            progress(f"Kafka: {file_name(coordinate)} verified")
    stamp.touch()
    return at


def _fetch_one(cache: Path, at: Path, coordinate: str, digest: str) -> str:
    downloaded = _download(cache, coordinate)
    if _sha256(downloaded) != digest:
        downloaded.unlink()
        raise JarsBroken(
            f"{coordinate}: the downloaded file's SHA-256 is not the one in {LOCK}. "
            "Try again; if it persists, the repository or a proxy alters files."
        )
    target = at / file_name(coordinate)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    partial.write_bytes(downloaded.read_bytes())
    partial.replace(target)
    downloaded.unlink()
    return coordinate


def _download(cache: Path, coordinate: str) -> Path:
    from jgo.maven import MavenContext

    group, artifact, version = coordinate.split(":")
    context = MavenContext(repo_cache=cache / "maven", timeout=120)
    try:
        return Path(context.project(group, artifact).at_version(version).artifact().resolve())
    except Exception as error:  # jgo raises many kinds; each means the file did not come
        raise JarsBroken(
            f"{coordinate}: download failed ({error}). Check the network, then try again."
        ) from error


def resolve(version: str, cache: Path) -> list[str]:
    """Coordinates of Kafka's run-time closure and of the logging binding.

    Two closures, resolved apart: together, the binding's managed versions would hold back Kafka's own libraries.
    """
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=cache / "maven", timeout=120)
    found: dict[str, str] = {}
    for coordinate in (LOGGING, f"{KAFKA}:{version}"):
        root = context.create_dependency(coordinate)
        root.scope = "compile"
        inputs, transitive = context.resolver.resolve([root])
        for d in [*inputs, *(t for t in transitive if t.scope in ("compile", "runtime"))]:
            found[f"{d.groupId}:{d.artifactId}"] = d.version
    return sorted(f"{name}:{version}" for name, version in found.items())


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and _sha256(path) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    from infra.local.settings import LocalSettings

    parser = argparse.ArgumentParser(prog="python -m infra.kafka.jars", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="fill the cache and verify it")
    commands.add_parser("lock", help="rewrite jars.lock").add_argument("version")
    arguments = parser.parse_args()
    cache = LocalSettings().cache
    if arguments.command == "lock":
        lines = [f"{_sha256(_download(cache, c))}  {c}" for c in resolve(arguments.version, cache)]
        LOCK.write_text("\n".join(lines) + "\n")
        return
    try:
        print(fetch(cache, progress=lambda line: print(line, file=sys.stderr, flush=True)))
    except JarsBroken as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
