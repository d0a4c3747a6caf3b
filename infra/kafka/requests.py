"""What aiokafka's admin client cannot say: access lists in one request, and users with SCRAM."""

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import (
    CreateAclsRequest_v1,
    DeleteAclsRequest_v1,
    DescribeAclsRequest_v1,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

ITERATIONS = 4_096
"""Kafka's least, and enough: our passwords are random, so nobody guesses them faster than the key itself."""
_SCRAM_SHA_512 = 2


class Refused(Exception):
    """Kafka refused a request of an administrator; the message says what and why."""


Acl = tuple[int, str, int, str, str, int, int]
"""Resource type, name, pattern type, principal, host, operation, permission: Kafka's own numbers."""


class _CreateAcls(Request[CreateAclsRequest_v1]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 30

    def __init__(self, acls: Sequence[Acl]) -> None:
        self._acls = acls

    def build(self, kind: Any) -> Any:
        return kind(list(self._acls))


class _DeleteAcls(Request[DeleteAclsRequest_v1]):  # type: ignore[misc]
    API_KEY = 31

    def __init__(self, filters: Sequence[Acl]) -> None:
        self._filters = filters

    def build(self, kind: Any) -> Any:
        return kind(list(self._filters))


class _DescribeAcls(Request[DescribeAclsRequest_v1]):  # type: ignore[misc]
    API_KEY = 29

    def build(self, kind: Any) -> Any:
        anything = 1
        return kind(anything, None, anything, None, None, anything, anything)


class _UsersAltered(Response):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterUsers_v0(RequestStruct):  # type: ignore[misc]  # noqa: N801  aiokafka's way of naming versions
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _UsersAltered
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterUsers(Request[_AlterUsers_v0]):  # type: ignore[misc]
    API_KEY = 51

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = passwords

    def build(self, kind: Any) -> Any:
        users: list[tuple[Any, ...]] = []
        for name, password in self._passwords.items():
            salt = secrets.token_bytes(24)
            salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
            users.append((name, _SCRAM_SHA_512, ITERATIONS, salt, salted, {}))
        return kind([], users, {})


async def set_passwords(admin: AIOKafkaAdminClient, passwords: Mapping[str, str]) -> None:
    """Give each user this SCRAM-SHA-512 password; who is logged in stays so. Raises Refused."""
    answer = await _send(admin, _AlterUsers(passwords))
    _check((f"user {user}", code, message) for user, code, message, _ in answer.results)


async def acls(admin: AIOKafkaAdminClient) -> set[Acl]:
    """Every entry of the cluster's access list. Raises Refused."""
    answer = await _send(admin, _DescribeAcls())
    _check([("the access list", answer.error_code, answer.error_message)])
    return {
        (kind, name, pattern, *entry)
        for kind, name, pattern, entries in answer.resources
        for entry in entries
    }


async def create_acls(admin: AIOKafkaAdminClient, wanted: Collection[Acl]) -> None:
    """Raises Refused."""
    if wanted:
        answer = await _send(admin, _CreateAcls(list(wanted)))
        _check(("the access list", *result) for result in answer.creation_responses)


async def delete_acls(admin: AIOKafkaAdminClient, unwanted: Collection[Acl]) -> None:
    """Raises Refused."""
    if unwanted:
        answer = await _send(admin, _DeleteAcls(list(unwanted)))
        _check(("the access list", code, message) for code, message, _ in answer.filter_responses)


async def _send(admin: AIOKafkaAdminClient, request: Any) -> Any:
    return await admin._send_request(request)


def _check(results: Any) -> None:
    for what, code, message in results:
        if code:
            kind = cast(type[Exception], for_code(code))
            raise Refused(f"Kafka refused {what}: {kind.__name__} {message or ''}".rstrip())
