"""How every Kafka client of a process connects: one place for addresses and credentials."""

from typing import Any

from shared.delivery.settings import DeliverySettings


def connection(settings: DeliverySettings) -> dict[str, Any]:
    """Keyword arguments for any aiokafka client: producer, consumer or admin."""
    return {"bootstrap_servers": settings.kafka_bootstrap.split(",")}
