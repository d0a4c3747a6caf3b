"""Reading and writing CloudEvents: nothing ambiguous gets in, nothing is lost on the way."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.envelope import Envelope, new_id, read, repair_headers, strict_json
from shared.contracts.errors import Poison
from shared.delivery.outbox import pack_headers, references, unpack_headers

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "range of a double"),
        (b'{"a": 1, "a": 2}', "repeats a key"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not valid JSON"),
    ],
)
def test_refuses_what_is_ambiguous_and_does_not_quote_it(body: bytes, complaint: str) -> None:
    with pytest.raises(Poison, match=complaint) as refused:
        strict_json(body)
    assert len(str(refused.value)) < 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_accepts_all_plain_json(value: object) -> None:
    assert strict_json(json.dumps(value).encode()) == value


@given(st.lists(st.tuples(st.text(min_size=1).filter(lambda n: "\x00" not in n), st.none() | st.binary())))
def test_headers_survive_the_database(headers: list[tuple[str, bytes | None]]) -> None:
    packed = json.loads(
        json.dumps(pack_headers(headers), ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    assert unpack_headers(packed) == [(name, value or b"") for name, value in headers]


@given(st.lists(st.tuples(st.text(), st.none() | st.binary())))
def test_repairing_headers_never_fails(headers: list[tuple[str, bytes | None]]) -> None:
    assert all(isinstance(value, str) for value in repair_headers(headers).values())


def test_reply_to_is_dropped() -> None:
    assert repair_headers([("reply_to", b"victim"), ("Reply_To", b"victim"), ("a", b"b")]) == {"a": "b"}


def test_binary_mode_round_trip() -> None:
    sent = Envelope(new_id(), "/data", "dataset.ready.v1", AT, "c-1", "e-0", "support", "00-ab-cd-01")
    incoming = read(dict(sent.headers()), b"{}", "t/0/1", "dataset.ready", AT)
    assert incoming.envelope == sent
    assert not incoming.foreign


def test_structured_mode_is_read_too() -> None:
    body = json.dumps(
        {"specversion": "1.0", "id": "x1", "source": "/crm", "type": "dataset.ready.v1", "data": {"a": 1}}
    ).encode()
    incoming = read(
        {"content-type": "application/cloudevents+json; charset=utf-8"}, body, "t/0/1", "dataset.ready", AT
    )
    assert (incoming.envelope.id, incoming.envelope.source, json.loads(incoming.data)) == (
        "x1",
        "/crm",
        {"a": 1},
    )


def test_a_foreign_message_is_named_by_its_place() -> None:
    incoming = read({}, b'{"a": 1}', "training.requested/2/118", "training.requested", AT)
    assert incoming.foreign
    assert incoming.envelope.id == incoming.envelope.correlationid == "training.requested/2/118"
    assert incoming.envelope.type == "training.requested.v1"


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ({}, None),
        ({"ce_source": "/x"}, b"{}"),
        ({"ce_id": "a" * 2_000}, b"{}"),
        ({"ce_id": "a", "ce_time": "yesterday"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b"[]"),
        ({"content-type": "application/cloudevents+json"}, b'{"id": 7, "data": {}}'),
    ],
)
def test_refuses_broken_envelopes(headers: dict[str, str], value: bytes | None) -> None:
    with pytest.raises(Poison):
        read(headers, value, "t/0/1", "t", AT)


def test_ids_sort_by_time_and_are_unique() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert [i[:11] for i in ids] == sorted(i[:11] for i in ids)


def test_references_are_what_one_searches_for() -> None:
    payload = {
        "model": "support",
        "model_version": 2,
        "run_id": "r-1",
        "long": "x" * 500,
        "n": 3,
        "list": ["no"],
    }
    assert references(payload) == ["r-1", "support:2"]
