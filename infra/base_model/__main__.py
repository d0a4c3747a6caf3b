"""`python -m infra.base_model [--to DIR] [--tiny DIR]`: idempotent; the progress goes to stderr, the digest to stdout."""

import argparse
import sys
import time
from pathlib import Path

from infra.base_model.obtain import obtain
from infra.base_model.tiny import make_tiny
from shared.contracts.errors import DriftwheelError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m infra.base_model", description="Install the default base model."
    )
    parser.add_argument(
        "--to", type=Path, default=Path(".driftwheel/base-model"), help="target folder (%(default)s)"
    )
    parser.add_argument("--tiny", type=Path, metavar="DIR", help="also make the random tiny model here")
    options = parser.parse_args(argv)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", file=sys.stderr, flush=True)

    try:
        digest = obtain(options.to, say)
        if options.tiny:
            make_tiny(options.tiny, tokenizer=options.to)
            say(f"tiny model in {options.tiny}")
    except DriftwheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
