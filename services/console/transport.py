"""HTTP for commands, by the standard library alone: a client library costs more time to load than a request takes."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

_CHUNK = 1 << 16
Params = Mapping[str, Any] | Sequence[tuple[str, Any]]


class Silent(Exception):
    """Nobody answered, or not to the end; its text is the kind of failure."""


class _Stay(HTTPRedirectHandler):
    """No redirect is followed: it would take our token along."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_opener = build_opener(_Stay)


@dataclass(frozen=True, slots=True)
class Response:
    """What was answered; `headers` are found in either case."""

    path: str
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)


class Told(NamedTuple):
    """One server-sent event."""

    id: str
    data: str


@dataclass(frozen=True, slots=True)
class Form:
    """A form with one file, which is read as it is sent."""

    fields: Mapping[str, str]
    file: Path

    def parts(self) -> "tuple[str, int, Iterator[bytes]]":
        """Content type, length, and the bytes."""
        boundary = secrets.token_hex(16)
        head = "".join(
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in self.fields.items()
        )
        name = self.file.name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        head += f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
        head += "content-type: application/octet-stream\r\n\r\n"
        first, last = head.encode(), f"\r\n--{boundary}--\r\n".encode()
        size = self.file.stat().st_size

        def sent() -> Iterator[bytes]:
            yield first
            left = size  # of a file that grows meanwhile, no more than was announced
            with self.file.open("rb") as rows:
                while left and (chunk := rows.read(min(_CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
            yield last

        return f"multipart/form-data; boundary={boundary}", len(first) + size + len(last), sent()


@contextmanager
def _opened(request: Request, timeout: float) -> Iterator[IO[bytes]]:
    """The answer, good or bad, while it is read. Raises Silent."""
    try:
        try:
            answer = _opener.open(request, timeout=timeout)
        except HTTPError as error:
            answer = error
        with answer:
            yield answer
    except (OSError, HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise Silent(type(cause if isinstance(cause, Exception) else error).__name__) from error


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    timeout: float,
    params: Params | None = None,
    json_body: Any = None,
    form: Form | None = None,
) -> Response:
    """One request and its whole answer. Raises Silent."""
    # The address was checked to be of HTTP by `door.url`.
    asked = Request(f"{url}?{urlencode(params, doseq=True)}" if params else url, method=method)  # noqa: S310
    for name, value in headers.items():
        asked.add_header(name, value)
    if form is not None:
        kind, length, asked.data = form.parts()
        asked.add_header("content-type", kind)
        asked.add_header("content-length", str(length))
    elif json_body is not None:
        asked.data = json.dumps(json_body).encode()
        asked.add_header("content-type", "application/json")
    with _opened(asked, timeout) as answer:
        return _whole(url, answer)


def _whole(url: str, answer: Any) -> Response:
    return Response(urlsplit(url).path, answer.status, answer.headers, answer.read())


def events(url: str, *, headers: Mapping[str, str], timeout: float) -> Iterator[Told | Response]:
    """Server-sent events until the stream ends; of a bad answer, that answer alone. Raises Silent."""
    with _opened(Request(url, headers=dict(headers)), timeout) as answer:  # noqa: S310
        if not 200 <= answer.status < 300:  # type: ignore[attr-defined]
            yield _whole(url, answer)
            return
        fields: dict[str, list[str]] = {}
        for line in answer:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text:
                name, _, value = text.partition(":")
                fields.setdefault(name, []).append(value.removeprefix(" "))
                continue
            if "data" in fields:
                yield Told(fields.get("id", [""])[-1], "\n".join(fields["data"]))
            fields = {}
