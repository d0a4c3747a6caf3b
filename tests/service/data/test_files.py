"""Files over HTTP, as the OpenAI SDK knows them: streamed, bounded, kept once."""

import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Callable

import httpx2
import openai
import pytest

from tests.service.data.conftest import World

CONTENT = b'{"prompt": "a", "completion": "b"}\n'


@pytest.fixture
def client(world: World, token: Callable[..., str]) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key=token("data:read", "data:write"),
        base_url="http://data/v1",
        http_client=world.http,
        max_retries=0,
    )


async def test_the_openai_sdk_uploads_lists_and_retrieves(client: openai.AsyncOpenAI) -> None:
    made = [
        await client.files.create(file=(f"rows-{n}.jsonl", CONTENT), purpose="fine-tune") for n in range(5)
    ]
    assert made[0].object == "file"
    assert (made[0].bytes, made[0].filename, made[0].purpose) == (len(CONTENT), "rows-0.jsonl", "fine-tune")
    assert made[0].id.startswith("file-")
    assert await client.files.retrieve(made[3].id) == made[3]
    listed = [file.id async for file in client.files.list(limit=2)]
    assert listed == [file.id for file in reversed(made)]
    listed = [file.id async for file in client.files.list(limit=2, order="asc", purpose="fine-tune")]
    assert listed == [file.id for file in made]
    assert not (await client.files.list(purpose="batch")).data


async def test_content_is_kept_once_and_under_its_own_name(client: openai.AsyncOpenAI, world: World) -> None:
    content = CONTENT + b" " * 7
    one = await client.files.create(file=("../../etc/passwd", content), purpose="fine-tune")
    other = await client.files.create(file=("b\\c.jsonl", content), purpose="fine-tune")
    assert one.id != other.id
    assert (one.filename, other.filename) == ("passwd", "c.jsonl")
    assert await world.objects.get("uploads", f"sha256/{hashlib.sha256(content).hexdigest()}") == content


async def test_refusals_have_the_shape_of_openai(client: openai.AsyncOpenAI) -> None:
    for file_id in ("file-000000000000000000000000", "file-..%2f..", "x" * 5_000, "file-%00", "file-\ud7ff"):
        with pytest.raises(openai.NotFoundError) as missing:
            await client.files.retrieve(file_id)
        assert missing.value.type == "invalid_request_error"
    with pytest.raises(openai.UnprocessableEntityError, match="fine-tune"):
        await client.files.create(file=("a.jsonl", CONTENT), purpose="batch")
    with pytest.raises(openai.UnprocessableEntityError, match="empty"):
        await client.files.create(file=("a.jsonl", b""), purpose="fine-tune")


async def test_scopes(world: World, token: Callable[..., str]) -> None:
    async def post(headers: dict[str, str]) -> int:
        answer = await world.http.post(
            "/v1/files", files={"file": ("a", CONTENT)}, data={"purpose": "fine-tune"}, headers=headers
        )
        return answer.status_code

    assert await post({"authorization": ""}) == 401
    assert await post({"authorization": f"Bearer {token('data:read')}"}) == 403
    assert await post({"authorization": f"Bearer {token('data:write')}"}) == 200


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_over_the_limit_is_refused(world: World, announced: bool) -> None:
    content = b"x" * 2_000_001
    request = world.http.build_request(
        "POST", "/v1/files", files={"file": ("a.jsonl", content)}, data={"purpose": "fine-tune"}
    )
    if not announced:
        body = request.read()

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 65_536):
                yield body[start : start + 65_536]

        headers = {"content-type": request.headers["content-type"], "transfer-encoding": "chunked"}
        request = world.http.build_request("POST", "/v1/files", content=chunks(), headers=headers)
    answer = await world.http.send(request)
    assert answer.status_code == 413
    assert "2000000 bytes" in answer.json()["error"]["message"]


async def test_an_endless_body_stops_at_the_limit_in_bounded_memory(world: World) -> None:
    sent = 0
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield head
        while True:
            sent += 1_000_000
            yield b"y" * 1_000_000

    tracemalloc.start()
    answer = await world.http.post(
        "/v1/files", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status_code == 413
    assert sent <= 4_000_000
    assert peak < 20_000_000


FORM = {"content-type": "multipart/form-data; boundary=x"}
PART = b'--x\r\ncontent-disposition: form-data; name="%s"\r\n\r\n'


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "application/json"}, b'{"file": "s3://elsewhere/a", "purpose": "fine-tune"}'),
        ({"content-type": "application/x-www-form-urlencoded"}, b"file=a&purpose=fine-tune"),
        ({}, CONTENT),
        ({"content-type": "multipart/form-data"}, b"--x--"),
        (FORM, b""),
        (FORM, b"not a form at all"),
        (FORM, b"--x--\r\n"),
        (FORM, PART % b"purpose" + b"fine-tune\r\n--x--\r\n"),
        (
            FORM,
            PART % b"file"
            + b"https://example.org/rows.jsonl\r\n"
            + PART % b"purpose"
            + b"fine-tune\r\n--x--\r\n",
        ),
        (FORM, b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--\r\n'),
        (FORM, (PART % b"many" + b"x\r\n") * 50 + b"--x--\r\n"),
        (FORM, b"--x\r\n" + b"a: b\r\n" * 500 + b"\r\n"),
        (FORM, b"--x\r\na: " + b"b" * 500_000),
    ],
)
async def test_what_is_no_upload_is_refused_and_the_next_one_works(
    world: World, headers: dict[str, str], body: bytes
) -> None:
    answer = await world.http.post("/v1/files", content=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert await world.upload(CONTENT)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=99999999999999999999",
        "after=%00",
        "order=up",
        "purpose=%00",
        "after=file-x",
    ],
)
async def test_hostile_queries_are_refused(world: World, query: str) -> None:
    answer: httpx2.Response = await world.http.get(f"/v1/files?{query}")
    assert answer.status_code == 422, answer.text
