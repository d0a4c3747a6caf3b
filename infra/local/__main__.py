"""`python -m infra.local [PART ...]`: supervise a stack until SIGTERM; what `driftwheel up --detach` runs."""

import sys

from infra.local.commands import supervise

if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
