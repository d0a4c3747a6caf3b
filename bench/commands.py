"""CPU seconds (user and system) of each command, from its start to its end, against a front door that answers at once.

The best of several, since a busy machine only adds to it: python -m bench.commands
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from joserfc.jwk import OKPKey
from rich.console import Console
from rich.table import Table

HELP_SECONDS, COMMAND_SECONDS = 0.15, 0.3
TIMES = 7
ROWS = 50
NOW = "2026-01-01T12:00:00+00:00"
RUN = {
    "id": "run-1", "model": "support", "state": "succeeded", "reason": "", "attempt": 1, "step": 60,
    "total_steps": 60, "loss": 0.12345, "validation_loss": 0.2, "curve": [{"validation_loss": 0.2}] * 20,
    "cost": {"amount": 0.002, "currency": "EUR", "device_seconds": 72.0, "tokens": 9}, "dataset_digest": "d" * 64,
    "adapter_digest": "a" * 64, "created_at": NOW,
}  # fmt: skip
LETTER = {
    "event_id": "0193a1b2-0000-7000-8000-000000000000", "topic": "dataset.ready", "attempts": 1,
    "handled_at": NOW, "error": "NaN is not JSON.", "state": "dead",
}  # fmt: skip
EVENT = (
    'id: 1\nevent: succeeded\ndata: {"state": "succeeded", "step": 60, "total_steps": 60, "loss": 0.5}\n\n'
)
PATHS = {
    "/api/trainer/runs": json.dumps({"runs": [RUN] * ROWS}),
    "/api/trainer/runs/run-1": json.dumps(RUN),
    "/api/trainer/runs/run-1/stream": EVENT,
    "/api/registry/policies": json.dumps({"model": "support", "revision": 1, "changed": True}),
    "/v1/chat/completions": json.dumps({"choices": [{"message": {"content": "card declined"}}]}),
    "/v1/files": json.dumps({"id": "file-1"}),
    "dead-letters": json.dumps({"dead_letters": [LETTER] * ROWS}),
    "consumers": json.dumps({"consumers": []}),
    "x": json.dumps({"correlations": []}),
    "stories": json.dumps({"service": "data", "sent": [], "handled": []}),
}
# Without `doctor` and `up`: the one reads every byte of jars and base model, the other starts everything.
COMMANDS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("--help",), HELP_SECONDS),
    (("runs", "--help"), COMMAND_SECONDS),
    (("--version",), COMMAND_SECONDS),
    (("runs", "list"), COMMAND_SECONDS),
    (("runs", "list", "--json"), COMMAND_SECONDS),
    (("runs", "show", "run-1"), COMMAND_SECONDS),
    (("runs", "watch", "run-1"), COMMAND_SECONDS),
    (("dlq", "list"), COMMAND_SECONDS),
    (("consumers", "list"), COMMAND_SECONDS),
    (("chat", "support", "why?"), COMMAND_SECONDS),
    (("apply", "examples/support/policy.yaml"), COMMAND_SECONDS),
    (("policy", "validate", "examples/support/policy.yaml"), COMMAND_SECONDS),
    (("policy", "schema"), COMMAND_SECONDS),
    (("token", "--scope", "chat"), COMMAND_SECONDS),
    (("trace", "x"), COMMAND_SECONDS),
    (("status",), COMMAND_SECONDS),
    (("down",), COMMAND_SECONDS),
    (("events", "tail", "--count", "1"), COMMAND_SECONDS),
)


class _Door(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        body = PATHS.get(path, PATHS.get(path.rpartition("/")[2], "{}")).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815 (the library's names)

    def log_message(self, *_: object) -> None:
        """Nothing: the figures are what is read."""


@contextmanager
def _front_door() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Door)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def cpu(arguments: tuple[str, ...], environment: dict[str, str]) -> float:
    """Seconds that one call took of a core."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "services.console.cli", *arguments]
    subprocess.run(command, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    missed = False
    table = Table("command", "CPU s", "goal", title="CPU of a command")
    with tempfile.TemporaryDirectory(prefix="driftwheel-bench-") as folder, _front_door() as url:
        home = Path(folder)
        key = OKPKey.generate_key("Ed25519", {"kid": "local"}, auto_kid=False)
        (home / "secrets").mkdir()
        (home / "secrets" / "signing-key.json").write_text(json.dumps(key.as_dict(private=True)))
        environment = {**os.environ, "DRIFTWHEEL_HOME": folder, "DRIFTWHEEL_URL": url}
        # As on every machine after the first call: nothing is compiled again.
        environment["PYTHONPYCACHEPREFIX"] = str(home / "compiled")
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for arguments, goal in COMMANDS:
            figure = min(cpu(arguments, environment) for _ in range(TIMES))
            missed |= figure > goal
            style = "red" if figure > goal else "default"
            table.add_row(" ".join(arguments), f"{figure:.3f}", f"≤ {goal}", style=style)
    Console(width=80).print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
