"""Add a revision for each event that has changed, unless it breaks those who read or wrote any earlier one."""

import argparse
import json
import sys

from tests.contract.schemas import BREAK, FOLDER, breaks, current, history, plain, samples

parser = argparse.ArgumentParser(prog="python -m tests.contract.schemas", description=__doc__)
parser.add_argument("--break", dest="reason", help="why a change that breaks readers cannot be a new version")
reason = parser.parse_args().reason
for name, schema in current().items():
    revisions = history(name)
    if revisions and plain(revisions[-1]) == schema:
        continue
    found = [why for revision in revisions for why in breaks(plain(revision), schema)]
    if found and not reason:
        sys.exit("\n".join([name, *found, "A break needs a new version of the event, beside the old one."]))
    document = schema | ({BREAK: reason} if found else {})
    path = FOLDER / name / f"{len(revisions) + 1:04d}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    samples.write(path.with_suffix(".samples.jsonl"), schema)
    print(path.relative_to(FOLDER))
