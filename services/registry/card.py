"""The model card that the trainer published beside the weights."""

from shared.artifacts.objects import ObjectStore, object_key
from shared.contracts.errors import NotFound

BUCKET = "adapters"
LARGEST = 262_144
"""Most bytes shown; a card of ours has a few thousand."""


async def model_card(objects: ObjectStore, adapter_digest: str) -> str:
    """Markdown with a YAML head. Raises NotFound if the adapter has none."""
    data = b""
    try:
        async for chunk in objects.stream(BUCKET, object_key(adapter_digest, "README.md")):
            data += chunk
            if len(data) >= LARGEST:
                break
    except NotFound:
        raise NotFound("This adapter has no model card.", "Look at the adapter in the store.") from None
    return data[:LARGEST].decode("utf-8", "replace")
