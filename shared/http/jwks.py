"""The public keys that verify tokens: from a file of this installation, or from an identity provider's JWKS URL.

Neither is ever taken from a token: it names a key id, and only that.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import httpx2
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

from shared.contracts.errors import Unavailable

log = structlog.get_logger()
KeyRing = Mapping[str | None, Key]
"""Keys by their id; None is the only key of a set that names no ids."""
Fetch = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Body and Cache-Control of a JWKS URL."""

_RELOAD_SECONDS = 5.0
_SOONEST_SECONDS = 10.0
"""Least pause between two fetches, whatever key ids strangers make up."""
_LATEST_SECONDS = 86_400.0
"""Keys that could not be fetched again for this long verify nothing any more."""
_FETCH_SECONDS = 5.0
_FRESH_SECONDS = (60.0, 600.0, 3_600.0)
"""How long fetched keys count as new: at least, where nothing is said, at most."""
_LARGEST = 262_144


class Keys(Protocol):
    async def find(self, kid: str | None) -> Key | None:
        """The key with this id. Raises Unavailable where no keys could be got at all."""
        ...

    async def problem(self) -> str | None:
        """What is wrong with the source now, for the readiness probe."""
        ...


def parse_key_set(data: bytes) -> KeyRing:
    """The signature keys of a JWK set. What is of an unknown kind or symmetric is left out.

    Raises ValueError for what is no key set.
    """
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no list of keys")  # noqa: TRY004 (of a document, not of an argument)
    found: dict[str | None, Key] = {}
    for one in listed[:100]:
        try:
            key = import_key(one)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if isinstance(key, RSAKey | ECKey | OKPKey) and key.get("use") in {None, "sig"}:
            found[key.kid] = key
    return found


def _pick(keys: KeyRing, kid: str | None) -> Key | None:
    if kid is None and len(keys) == 1:
        return next(iter(keys.values()))
    return keys.get(kid)


class KeyFile:
    """Read again when it changes, so keys rotate without a restart. A broken file leaves the last good keys."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: KeyRing | None = None
        self._version: tuple[int, int] | None = None
        self._looked = -_RELOAD_SECONDS
        self._problem: str | None = None

    async def find(self, kid: str | None) -> Key | None:
        self._reload()
        if self._keys is None:
            raise Unavailable(
                "No token can be verified here: the key set cannot be read.", "Mend the key file."
            )
        return _pick(self._keys, kid)

    async def problem(self) -> str | None:
        self._reload()
        return self._problem

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._looked < _RELOAD_SECONDS and self._keys is not None:
            return
        self._looked = now
        try:
            found = self._path.stat()
            version = (found.st_mtime_ns, found.st_ino)
            if version != self._version or self._problem:
                self._keys = parse_key_set(self._path.read_bytes())
                self._version = version
            self._problem = None
        except (OSError, ValueError) as error:
            if not self._problem:
                log.error("auth.keys_broken", error=type(error).__name__)
            self._problem = f"auth: the key set cannot be read ({type(error).__name__})"


class KeyUrl:
    """Fetched in the background once its age passes `Cache-Control: max-age`, and at once for an unknown key id."""

    def __init__(self, url: str, fetch: Fetch | None = None) -> None:
        self._url = url
        self._fetch = fetch or _get
        self._keys: KeyRing | None = None
        self._fetched = self._tried = -_LATEST_SECONDS
        self._fresh = _FRESH_SECONDS[1]
        self._fetching: asyncio.Task[None] | None = None
        self._problem: str | None = None

    async def find(self, kid: str | None) -> Key | None:
        await self._keep_fresh()
        key = _pick(self._keys or {}, kid)
        if key is None and self._may_fetch():
            await self._refresh()
            key = _pick(self._keys or {}, kid)
        if self._keys is None:
            raise Unavailable(
                "No token can be verified now: the identity provider does not answer.", "Try again."
            )
        return key

    async def problem(self) -> str | None:
        await self._keep_fresh()
        return self._problem if self._keys is None else None

    def _may_fetch(self) -> bool:
        return self._fetching is not None or time.monotonic() - self._tried >= _SOONEST_SECONDS

    async def _keep_fresh(self) -> None:
        age = time.monotonic() - self._fetched
        if age >= _LATEST_SECONDS:
            self._keys = None
        if age < self._fresh or not self._may_fetch():
            return
        if self._keys is None:
            await self._refresh()
        else:
            self._begin()

    def _begin(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._tried = time.monotonic()
            self._fetching = asyncio.create_task(self._fetch_once())
        return self._fetching

    async def _refresh(self) -> None:
        # Shielded: a caller that goes away must not take the fetch of all the others with it.
        await asyncio.shield(self._begin())

    async def _fetch_once(self) -> None:
        try:
            async with asyncio.timeout(2 * _FETCH_SECONDS):
                body, cache_control = await self._fetch(self._url)
            self._keys = parse_key_set(body)
        except (httpx2.HTTPError, OSError, ValueError) as error:
            self._problem = (
                f"auth: the keys of the identity provider cannot be fetched ({type(error).__name__})"
            )
            log.warning("auth.keys_not_fetched", error=type(error).__name__)
        else:
            self._problem = None
            self._fetched = time.monotonic()
            self._fresh = _freshness(cache_control)
        finally:
            self._fetching = None


def _freshness(cache_control: str) -> float:
    """Seconds. Source: RFC 9111, section 5.2.2.1."""
    least, usual, most = _FRESH_SECONDS
    said = re.search(r"\bmax-age=([0-9]{1,9})\b", cache_control.lower())
    return min(max(float(said[1]), least), most) if said else usual


async def _get(url: str) -> tuple[bytes, str]:
    async with (
        httpx2.AsyncClient(timeout=_FETCH_SECONDS, follow_redirects=False) as http,
        http.stream("GET", url, headers={"accept": "application/json"}) as response,
    ):
        if response.status_code != httpx2.codes.OK:
            raise ValueError(f"status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _LARGEST:
                raise ValueError("larger than a key set")
        return bytes(body), response.headers.get("cache-control", "")
