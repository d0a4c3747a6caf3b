"""A connection for administrators. What aiokafka's own admin client lacks is in `requests`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError

from shared.delivery.kafka import connection, trouble
from shared.delivery.settings import KafkaSettings


class ClusterRefused(Exception):
    """Kafka does not let us in; the message says why, and who we were."""


@asynccontextmanager
async def administrator(settings: KafkaSettings, **options: int) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client. Raises ClusterRefused."""
    client = AIOKafkaAdminClient(**connection(settings), **options)
    try:
        try:
            await client.start()
        except KafkaConnectionError as error:
            raise ClusterRefused(await trouble(settings) or str(error)) from error
        yield client
    finally:
        await client.close()
