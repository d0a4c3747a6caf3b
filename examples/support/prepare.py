"""Recreates the rows of this folder from CLINC150: `python examples/support/prepare.py clinc150.json`.

The story: a bank's support desk names the intent of each query. Then the desk takes over travel, and the queries change.
"""

import json
import random
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

BANK = (
    "account_blocked",
    "balance",
    "card_declined",
    "credit_limit",
    "credit_score",
    "damaged_card",
    "exchange_rate",
    "interest_rate",
    "new_card",
    "order_checks",
    "pin_change",
    "report_fraud",
    "routing",
    "spending_history",
    "transfer",
)
TRAVEL = (
    "book_flight",
    "book_hotel",
    "car_rental",
    "carry_on",
    "flight_status",
    "international_visa",
    "lost_luggage",
    "plug_type",
    "travel_suggestion",
    "vaccines",
)
Pairs = list[tuple[str, str]]


def answer(intent: str) -> str:
    """The completion that stands for an intent: plain words, two tokens on average (3.2 with underscores), the first
    of which almost always tells the intents apart."""
    return intent.replace("_", " ")


def pick(rows: Pairs, intents: Iterable[str], number: int) -> Pairs:
    """The first `number` texts of each intent."""
    return [row for intent in intents for row in islice((row for row in rows if row[1] == intent), number)]


def write(path: Path, rows: Pairs) -> None:
    random.Random(path.stem).shuffle(rows)
    lines = (json.dumps({"prompt": text, "completion": answer(intent)}) + "\n" for text, intent in rows)
    path.write_text("".join(lines), encoding="utf-8")


def main(source: Path, folder: Path) -> None:
    original: dict[str, Pairs] = json.loads(source.read_text(encoding="utf-8"))
    train, validation, test = original["train"], original["val"], original["test"]
    write(folder / "before.jsonl", pick(train, BANK, 40))
    write(folder / "traffic_before.jsonl", pick(validation, BANK, 14))
    write(folder / "traffic_after.jsonl", pick(train, TRAVEL, 40))
    write(folder / "held_out_after.jsonl", [*pick(test, BANK, 8), *pick(test, TRAVEL, 12)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/support/prepare.py PATH/TO/clinc150.json")
    main(Path(sys.argv[1]), Path(__file__).parent)
