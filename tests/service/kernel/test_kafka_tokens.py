"""Tokens for a Kafka that takes OAUTHBEARER, asked of an identity provider."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shared.delivery import kafka
from shared.delivery.settings import KafkaSettings


class Provider:
    """Gives a new token at each request, to one client."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.lifetime = 3_600
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        who = aiohttp.BasicAuth.decode(request.headers["authorization"])
        if (who.login, who.password) != ("driftwheel-data", "hidden-word"):
            return web.json_response({"error": "invalid_client"}, status=401)
        self.asked.append(dict(await request.post()))
        return web.json_response({"access_token": f"t-{len(self.asked)}", "expires_in": self.lifetime})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    found, app = Provider(), web.Application()
    app.router.add_post("/token", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    yield found
    await runner.cleanup()


def tokens(provider: Provider, password: str = "hidden-word") -> kafka.Tokens:
    return kafka.Tokens(
        KafkaSettings(
            kafka_mechanism="OAUTHBEARER",
            kafka_username="driftwheel-data",
            kafka_password=password,
            kafka_token_url=provider.url,
            kafka_token_scope="kafka",
        )
    )


async def test_a_token_is_kept_until_shortly_before_its_end(provider: Provider) -> None:
    ours = tokens(provider)
    assert [await ours.token() for _ in range(3)] == ["t-1"] * 3
    assert provider.asked == [{"grant_type": "client_credentials", "scope": "kafka"}]
    provider.lifetime = 1
    brief = tokens(provider)
    assert [await brief.token(), await brief.token()] == ["t-2", "t-3"]


async def test_no_token_is_said_with_the_client_s_name_and_without_its_secret(provider: Provider) -> None:
    with pytest.raises(kafka.TokenRefused, match=r"driftwheel-data no token \(status 401\)") as refused:
        await tokens(provider, "wrong-word").token()
    assert "wrong-word" not in str(refused.value)
    assert refused.value.retriable  # a provider that is away is an outage, not the end
