"""Policy documents as people write them: refused with the path and the reason, never with what was sent."""

from pydantic import ValidationError

from shared.contracts.errors import Invalid
from shared.contracts.policy import Policy
from shared.contracts.text import Json

_MOST = 5


def parse_policy(document: Json) -> Policy:
    """Raises Invalid naming up to 5 places and what is wrong there."""
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        said = [f"{_place(one['loc'])}: {one['msg'].removeprefix('Value error, ')}" for one in found[:_MOST]]
        more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise Invalid(
            "; ".join(said) + more, "Correct the policy; every field is described in its schema."
        ) from error


def _place(location: tuple[int | str, ...]) -> str:
    path = ".".join(str(part) for part in location)[:200]
    return path.encode("ascii", "replace").decode() or "the policy"
