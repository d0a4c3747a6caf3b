"""Whether the topics exist that a service reads: a consumer of a missing one would wait in silence."""

from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient

from shared.delivery.kafka import connection, principal
from shared.delivery.settings import DeliverySettings


class MissingTopics(RuntimeError):
    """Kafka lacks topics; the message names them."""


async def check_topics(settings: DeliverySettings, topics: Iterable[str]) -> None:
    """Raises MissingTopics, or KafkaError while Kafka is away."""
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        missing = sorted(set(topics) - set(await admin.list_topics()))
    finally:
        await admin.close()
    if missing:
        raise MissingTopics(
            f"Kafka lacks {', '.join(missing)}, or does not show them to {principal(settings)}. "
            "Create them: python -m infra.kafka.topics; grant access: python -m infra.kafka.access --apply."
        )
