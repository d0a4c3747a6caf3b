"""Who answers: an immutable table, replaced as a whole, and the sticky choice between two arms."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from shared.contracts.errors import NotFound, Unavailable

Arm = Literal["champion", "challenger", "pinned", "base"]
_NAME = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9-]{0,47})(?:@(?P<alias>champion|challenger)|:(?P<version>[1-9][0-9]{0,8}))?"
)


class Target(NamedTuple):
    """One version as the engine knows it; `version` is None for the base model."""

    engine_name: str
    version: int | None


@dataclass(frozen=True, slots=True)
class Split:
    """A challenger's share of the traffic. `salt` stays the same for the whole rollout, so ranges are nested."""

    rollout_id: str
    challenger: Target
    weight: float
    salt: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """How one model is answered now. Every target here is loaded and probed; `promoted`: a champion is known."""

    promoted: bool = False
    champion: Target | None = None
    previous: Target | None = None
    base: Target | None = None
    split: Split | None = None
    pinned: Mapping[int, Target] = field(default_factory=dict)

    @property
    def answers(self) -> bool:
        """Whether somebody who just names the model gets an answer."""
        return bool(self.champion or self.previous or self.base or self.split)


@dataclass(frozen=True, slots=True)
class Choice:
    """The target of one request, and who answers if it fails before the first byte."""

    model: str
    target: Target
    arm: Arm
    rollout_id: str | None = None
    fallback: Target | None = None


def fraction(salt: bytes, subject: str, user: str) -> float:
    """Where a caller stands in [0, 1): the same for the same salt, unpredictable without it."""
    unit = hmac.new(salt, f"{subject}\x00{user}".encode(), hashlib.sha256).digest()
    return int.from_bytes(unit[:8], "big") / 2**64


def challenged(split: Split, subject: str, user: str) -> bool:
    """True if this caller belongs to the challenger; who is in at 5 % stays in at 50 %."""
    return fraction(split.salt, subject, user) * 100 < split.weight


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All routes. Choosing needs no I/O."""

    routes: Mapping[str, Route] = field(default_factory=dict)

    def choose(self, name: str, subject: str, user: str = "") -> Choice:
        """Pick the target for `support`, `support@champion`, `support@challenger` or `support:7`.

        Raises:
            NotFound: no such model, no such version loaded, or no challenger now.
            Unavailable: the model's champion is not known or not loaded (yet).
        """
        match = _NAME.fullmatch(name)
        route = self.routes.get(match["model"]) if match else None
        if match is None or route is None:
            raise NotFound("There is no such model here.", "List the models: GET /v1/models.")
        model, alias, version = match["model"], match["alias"], match["version"]
        if version:
            return Choice(model, _pinned(route, int(version)), "pinned")
        if alias == "challenger":
            if route.split is None:
                raise NotFound(
                    "No rollout of this model is running, so it has no challenger.", "Ask the champion."
                )
            return Choice(model, route.split.challenger, "challenger")
        if alias is None and route.split is not None and challenged(route.split, subject, user):
            split, fallback = route.split, route.champion or route.previous or route.base
            return Choice(model, split.challenger, "challenger", split.rollout_id, fallback)
        return _champion(model, route, in_rollout=alias is None)


def _pinned(route: Route, version: int) -> Target:
    target = route.pinned.get(version)
    if target is None:
        loaded = ", ".join(str(number) for number in sorted(route.pinned)) or "none"
        raise NotFound(
            f"This version is not loaded; loaded are: {loaded}.", "Ask one of them, or the champion."
        )
    return target


def _champion(model: str, route: Route, *, in_rollout: bool) -> Choice:
    rollout_id = route.split.rollout_id if in_rollout and route.split else None
    target = route.champion or route.previous
    if target is not None:
        return Choice(model, target, "champion", rollout_id)
    if route.base is not None:
        return Choice(model, route.base, "base", rollout_id)
    if not route.promoted:
        raise Unavailable(
            "No promoted version of this model is known yet.",
            "Wait for its first rollout, or for the registry to announce its champion again.",
        )
    raise Unavailable("The champion is not loaded yet.", "Try again in a few seconds.")
