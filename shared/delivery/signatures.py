"""Whether a message is from whom its event must be from."""

from typing import TYPE_CHECKING

from shared.artifacts.signing import Refused, Trust
from shared.delivery.outbox import SIGNATURE

if TYPE_CHECKING:
    from shared.delivery.inbox import Delivery


def refusal(trust: Trust, delivery: "Delivery") -> str | None:
    """What is wrong with the signature: a member of signing.REASONS; None if it is right, or none is needed."""
    if not delivery.signed:
        return None
    headers = dict(delivery.headers)
    key_id, signature = ((headers.get(name) or b"").decode("latin-1") for name in SIGNATURE)
    envelope = delivery.envelope
    try:
        trust.verifier.check(envelope.id, envelope.type, delivery.body or b"", key_id, signature)
    except Refused as refused:
        return refused.reason
    return None
