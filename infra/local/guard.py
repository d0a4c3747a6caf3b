"""Outlives the supervisor and ends its parts when it dies without stopping them (kill -9, out of memory).

Run as `python -m infra.local.guard HOME STACK` with a pipe as stdin, which closes when the supervisor is gone.
"""

import signal
import sys
from pathlib import Path

from infra.local.process import sweep


def main() -> None:
    home, stack = Path(sys.argv[1]), sys.argv[2]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(home, stack=stack)


if __name__ == "__main__":
    main()
