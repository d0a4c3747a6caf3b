"""What was typed, as a value. Typer would load pydantic for that, which takes longer than all the rest of a command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

from typer import BadParameter

_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _bool(text: str) -> bool:
    return _WORDS[text.strip().lower()]


KINDS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "a text"),
    bool: (_bool, "yes or no"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    Path: (Path, "a path"),
}


class Plain:
    """In the place of a parameter's `RuntimeParam`: the kinds of values that our commands take."""

    def __init__(self, kind: Any, low: float | None, high: float | None) -> None:
        self._kind, self._low, self._high = kind, low, high

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """None stays None; of what may be given often, a list. Raises BadParameter."""
        if param.multiple or param.nargs == -1:
            return [self._one(one, param, ctx) for one in value or ()] or ()
        return None if value is None else self._one(value, param, ctx)

    def _one(self, value: Any, param: Any, ctx: Any) -> Any:
        read, name = KINDS[self._kind]
        try:
            found = value if isinstance(value, self._kind) else read(value)
        except (ValueError, KeyError):
            raise BadParameter(f"{value!r} is not {name}.", ctx=ctx, param=param) from None
        if self._low is not None and not found >= self._low:
            raise BadParameter(f"{value} is below {self._low:g}.", ctx=ctx, param=param)
        if self._high is not None and not found <= self._high:
            raise BadParameter(f"{value} is above {self._high:g}.", ctx=ctx, param=param)
        return found


def lighten(param: Any) -> Any:
    """The parameter, whose values `Plain` reads from now on, if it knows their kind."""
    kind = param.type_descriptor.annotation
    if get_origin(kind) is list:
        [kind] = get_args(kind)
    if kind in KINDS:
        info = param.type_descriptor.parameter_info
        param.get_runtime_param = lambda: Plain(kind, info.min, info.max)
    return param
