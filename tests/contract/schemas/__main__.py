"""Write the schemas of today, unless one of them breaks those who read or wrote yesterday's."""

import json
import sys

from tests.contract.schemas import FOLDER, breaks, committed, current

old = committed()
found = [
    f"{name}: {why}" for name, schema in current().items() if name in old for why in breaks(old[name], schema)
]
if found:
    sys.exit("\n".join([*found, "A break needs a new version of the event, beside the old one."]))
for name, schema in current().items():
    (FOLDER / f"{name}.json").write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")
