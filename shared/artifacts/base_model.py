"""What identifies a base model: the digests of the files that decide its answers.

`digest` = SHA-256 of the canonical JSON of `{"files": {name: {"sha256", "size"}}}` over weights, config, tokenizer and
chat template. Documentation beside them does not count, so the same model always has the same digest.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from shared.contracts.errors import Invalid, NotFound

MANIFEST = "manifest.json"
_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt")

Files = dict[str, dict[str, Any]]


def describe(folder: Path) -> Files:
    """Hash every file that decides the model's answers (one read of the weights: about 1 s per GB)."""
    if not (folder / "config.json").is_file():
        raise NotFound(
            f"no base model in {folder}: config.json is missing",
            "Run `python -m infra.base_model`, or set the base model to a folder saved by transformers.",
        )
    names = sorted(
        p.name for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file() and p.name != MANIFEST
    )
    return {
        name: {"sha256": _sha256(folder / name), "size": (folder / name).stat().st_size} for name in names
    }


def write_manifest(folder: Path, source: dict[str, str]) -> str:
    """Write `manifest.json` last, after the files it describes, and return the base digest."""
    files = describe(folder)
    digest = _digest(files)
    document = {"digest": digest, "files": files, "source": source}
    (folder / MANIFEST).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digest


def base_digest(folder: Path) -> str:
    """The digest of the base model in `folder`, from its manifest if it has one.

    A manifest is believed as far as names and sizes agree; `verify` reads every byte.
    Raises: NotFound without a model, Invalid if manifest and folder disagree.
    """
    if not (folder / MANIFEST).is_file():
        import structlog  # `doctor` verifies a model without a service's log

        digest = _digest(describe(folder))
        structlog.get_logger().info(
            "base model has no manifest, digest computed from its files", folder=str(folder), digest=digest
        )
        return digest
    files = _read_manifest(folder)
    wrong = [name for name, entry in files.items() if _size(folder / name) != entry["size"]]
    if wrong:
        raise Invalid(f"base model {folder} differs from its {MANIFEST} in {', '.join(wrong)}", _REPAIR)
    return _digest(files)


def verify(folder: Path) -> str:
    """Like `base_digest`, but every byte is read. Raises Invalid if any file differs from the manifest."""
    recorded, actual = _read_manifest(folder), describe(folder)
    if recorded != actual:
        names = sorted(n for n in recorded.keys() | actual.keys() if recorded.get(n) != actual.get(n))
        raise Invalid(f"base model {folder} differs from its {MANIFEST} in {', '.join(names)}", _REPAIR)
    return _digest(actual)


_REPAIR = f"Fetch the model again, or delete {MANIFEST} if the change is yours."


def _read_manifest(folder: Path) -> Files:
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {
            str(n): {"sha256": str(e["sha256"]), "size": int(e["size"])} for n, e in document["files"].items()
        }
    except FileNotFoundError as error:
        raise NotFound(f"no {MANIFEST} in {folder}", "Run `python -m infra.base_model`.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{folder / MANIFEST} is not a base model manifest", _REPAIR) from error
    if any(Path(name).name != name for name in files):
        raise Invalid(f"{folder / MANIFEST} names a file outside its folder", _REPAIR)
    return files


def _digest(files: Files) -> str:
    canonical = json.dumps({"files": files}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
