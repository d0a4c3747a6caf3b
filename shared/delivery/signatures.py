"""Whether a message is from whom it claims to be from."""

from dataclasses import replace
from typing import TYPE_CHECKING

from shared.artifacts.signing import REGISTRY, Refused, Trust
from shared.contracts.topology import OURS, PRODUCERS, UNVERIFIED
from shared.delivery.outbox import SIGNATURE

if TYPE_CHECKING:
    from shared.delivery.inbox import Delivery


def refusal(trust: Trust, delivery: "Delivery") -> str | None:
    """What is wrong with the signature: a member of signing.REASONS; None if it is right, or none is needed."""
    return _wrong(trust, delivery, REGISTRY) if delivery.signed else None


def believed(trust: Trust, delivery: "Delivery") -> "Delivery":
    """The same, where a stranger's on an open topic does not carry the name of a service of ours.

    What claims to be from one is from it only if that service says such things, and has signed this one. All else is filed
    under a name that no genuine message has, and is handled, limited and counted as what any stranger sends.
    """
    source = delivery.envelope.source
    if not delivery.open or source not in OURS:
        return delivery
    service = source.removeprefix("/")
    if service in PRODUCERS.get(delivery.topic, ()) and _wrong(trust, delivery, service) is None:
        return delivery
    return replace(delivery, envelope=replace(delivery.envelope, source=UNVERIFIED + source))


def _wrong(trust: Trust, delivery: "Delivery", service: str) -> str | None:
    headers = dict(delivery.headers)
    key_id, signature = ((headers.get(name) or b"").decode("latin-1") for name in SIGNATURE)
    envelope = delivery.envelope
    try:
        trust.verifier.check(envelope.id, envelope.type, delivery.body or b"", service, (key_id, signature))
    except Refused as refused:
        return refused.reason
    return None
