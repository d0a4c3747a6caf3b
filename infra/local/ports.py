"""Free ports that stay ours until the part that wants them listens."""

import random
import socket

LOOPBACK = "127.0.0.1"
# Below the range the kernel hands to outgoing connections, so that no client socket takes a port of ours.
CANDIDATES = range(20_000, 32_000)


class NoFreePort(Exception):
    """No candidate port could be bound."""


def reserve(preferred: int | None = None, attempts: int = 200) -> socket.socket:
    """Bind a loopback port and hold it; `.getsockname()[1]` is its number.

    The socket is bound without SO_REUSEADDR, so a port another reservation holds is refused, and gets the flag
    afterwards, so the part (every server sets the flag) can bind and listen while we still hold it.
    """
    choices = random.sample(CANDIDATES, attempts)
    for port in ([preferred] if preferred else []) + choices:
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.bind((LOOPBACK, port))
        except OSError:
            held.close()
            continue
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return held
    raise NoFreePort(
        f"none of {attempts} ports on {LOOPBACK} could be bound; see `ss -ltn` for what holds them"
    )
