"""A JSON document, for code that must start fast: this module brings nothing along."""

from typing import Any

Json = dict[str, Any]
