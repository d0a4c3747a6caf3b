"""What an answer should have been, as people write it: texts of users, so they live in the store and events refer to them.

One object for each judgement, named by its content. The content names the judgement too: two people who write the same words
have two objects, and what one takes back the other keeps.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import NotFound
from shared.contracts.events import CorrectionRef

CORRECTIONS = "corrections"
FOREIGN_CORRECTIONS = "foreign-corrections"
"""Those that other systems wrote into their events: moved by data, as each bucket has one writer."""
_AT_ONCE = 16


def correction(feedback_id: str, text: str, bucket: str = CORRECTIONS) -> tuple[CorrectionRef, bytes]:
    """Where the correction of a judgement lies, and what is written there. The same for the same words."""
    document = {"feedback_id": feedback_id, "corrected": text}
    content = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(content).hexdigest()
    key = f"sha256/{digest[:2]}/{digest}.json"
    return CorrectionRef(bucket=bucket, key=key, sha256=digest, bytes=len(content)), content


async def keep(
    objects: ObjectStore, texts: Mapping[str, str], bucket: str = CORRECTIONS
) -> dict[str, CorrectionRef]:
    """Write corrections, by the id of their judgement. Again the same changes nothing.

    Raises:
        Unavailable: the store does not take one of them.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(feedback_id: str, text: str) -> CorrectionRef:
        ref, content = correction(feedback_id, text, bucket)
        async with slots:
            await objects.create(bucket, ref.key, content)
        return ref

    refs = await asyncio.gather(*(one(feedback_id, text) for feedback_id, text in texts.items()))
    return dict(zip(texts, refs, strict=True))


async def read(objects: ObjectStore, refs: Iterable[CorrectionRef]) -> dict[str, str]:
    """The texts of corrections, by their digest. What is gone, or is not what its digest says, is left out.

    Only the buckets of corrections are read, whatever a reference may name. Raises Unavailable.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(ref: CorrectionRef) -> tuple[str, str] | None:
        with suppress(NotFound, ValueError, KeyError, TypeError):
            async with slots:
                content = await objects.get(ref.bucket, ref.key)
            if hashlib.sha256(content).hexdigest() == ref.sha256:
                return ref.sha256, str(json.loads(content)["corrected"])
        return None

    wanted = {ref.sha256: ref for ref in refs if ref.bucket in (CORRECTIONS, FOREIGN_CORRECTIONS)}
    return dict(found for found in await asyncio.gather(*map(one, wanted.values())) if found)
