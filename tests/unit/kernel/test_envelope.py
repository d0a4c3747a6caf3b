"""Reading and writing CloudEvents: nothing ambiguous gets in, nothing is lost on the way."""

import json
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.envelope import MAX_ATTRIBUTE_BYTES, Envelope, new_id, read, repair_headers
from shared.contracts.errors import Poison
from shared.contracts.strict_json import strict_json
from shared.delivery.outbox import pack_headers, unpack_headers

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
        (b"[" * 3_000, "nested deeper"),
        (b"[" * 100_000, "values"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "digits"),
        (b"[" + b"[]," * 5_000 + b"0]", "values"),
        (b"[" + b'"",' * 500_000 + b"0]", "values"),
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
    incoming = read(dict(sent.headers()), b"{}", lambda: "t/0/1", "dataset.ready", AT)
    assert incoming.envelope == sent
    assert not incoming.foreign


def test_structured_mode_is_read_too() -> None:
    body = json.dumps(
        {"specversion": "1.0", "id": "x1", "source": "/crm", "type": "dataset.ready.v1", "data": {"a": 1}}
    ).encode()
    incoming = read(
        {"content-type": "application/cloudevents+json; charset=utf-8"},
        body,
        lambda: "t/0/1",
        "dataset.ready",
        AT,
    )
    assert (incoming.envelope.id, incoming.envelope.source, incoming.payload()) == (
        "x1",
        "/crm",
        {"a": 1},
    )


def test_a_foreign_message_is_named_by_its_place() -> None:
    incoming = read({}, b'{"a": 1}', lambda: "training.requested/2/118", "training.requested", AT)
    assert incoming.foreign
    assert incoming.envelope.id == incoming.envelope.correlationid == "training.requested/2/118"
    assert incoming.envelope.type == "training.requested.v1"


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ({}, None),
        ({"ce_source": "/x"}, b"{}"),
        ({"ce_id": "a" * (MAX_ATTRIBUTE_BYTES + 1)}, b"{}"),
        ({"ce_id": "\u6f22" * (MAX_ATTRIBUTE_BYTES // 3 + 1)}, b"{}"),
        ({"ce_id": "a", "ce_correlationid": "\u6f22" * 1_000}, b"{}"),
        ({"ce_id": "a\x1b]0;"}, b"{}"),
        ({"ce_id": "a", "ce_specversion": "0.3"}, b"{}"),
        ({"ce_id": "a", "ce_time": "0001-01-01T00:00:00+14:00"}, b"{}"),
        ({"ce_id": "a", "ce_time": "9999-12-31T23:59:59-12:00"}, b"{}"),
        ({"ce_id": "a", "ce_time": "yesterday"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b"[]"),
        ({"content-type": "application/cloudevents+json"}, b'{"id": 7, "data": {}}'),
        ({"content-type": "application/cloudevents+json"}, b'{"id": null, "data": {}}'),
        ({"content-type": "application/cloudevents+json"}, b'{"id": "a", "subject": 7, "data": {}}'),
        ({"content-type": "application/cloudevents+json"}, b'{"id": "a", "traceparent": {}, "data": {}}'),
        ({"content-type": "application/cloudevents+json"}, b'{"id": "a", "data_base64": "?"}'),
        ({"content-type": "application/cloudevents+json"}, b'{"id": "a", "data_base64": 7}'),
        ({"content-type": "application/cloudevents+json"}, b'{"id": "a", "data": {}, "data_base64": "e30="}'),
        ({"content-type": 'application/cloudevents+json; charset="utf-16"'}, b'{"id": "a", "data": {}}'),
    ],
)
def test_refuses_broken_envelopes(headers: dict[str, str], value: bytes | None) -> None:
    with pytest.raises(Poison):
        read(headers, value, lambda: "t/0/1", "t", AT)


def test_ids_sort_by_time_and_are_unique() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert [i[:11] for i in ids] == sorted(i[:11] for i in ids)


STRUCTURED = {"content-type": 'Application/CloudEvents+JSON; charset="UTF-8"'}


def structured(**attributes: object) -> bytes:
    return json.dumps(
        {"specversion": "1.0", "id": "x1", "source": "/crm", "type": "t.v1", **attributes}
    ).encode()


@pytest.mark.parametrize(
    "attributes",
    [
        {"subject": None, "traceparent": None, "time": None, "datacontenttype": None},
        {"sampledrate": 30, "urgent": True, "nothing": None},
        {"data_base64": None},
        {"time": "2026-11-14T09:26:53.589793238Z"},
        {"time": "2026-11-14t09:26:53z"},
    ],
)
def test_a_structured_event_with_null_and_typed_attributes_is_read(attributes: dict[str, object]) -> None:
    incoming = read(STRUCTURED, structured(data={"a": 1}, **attributes), lambda: "t/0/1", "t", AT)
    assert incoming.payload() == {"a": 1}
    assert incoming.envelope.id == "x1"
    assert incoming.envelope.subject is None


def test_typed_extensions_have_their_canonical_text() -> None:
    envelope = read(
        STRUCTURED, structured(data={}, correlationid=42, causationid=True), lambda: "t/0/1", "t", AT
    ).envelope
    assert (envelope.correlationid, envelope.causationid) == ("42", "true")


def test_data_in_base64_is_read() -> None:
    incoming = read(STRUCTURED, structured(data_base64="eyJhIjogMX0="), lambda: "t/0/1", "t", AT)
    assert incoming.payload() == {"a": 1}


@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        ("application/cloudevents-batch+json; charset=utf-8", "batched"),
        ("application/cloudevents+avro", "format"),
        ("application/cloudevents+json; charset=latin-1", "UTF-8"),
    ],
)
def test_what_is_not_read_is_refused_by_name(content_type: str, says: str) -> None:
    with pytest.raises(Poison, match=says):
        read({"Content-Type": content_type}, b"[]", lambda: "t/0/1", "t", AT)


def test_moments_are_in_utc() -> None:
    envelope = read(
        {"ce_id": "a", "ce_time": "2026-01-01T02:00:00+02:00"}, b"{}", lambda: "t/0/1", "t", AT
    ).envelope
    assert envelope.time.isoformat() == "2026-01-01T00:00:00+00:00"


def _costly(unit: bytes, before: bytes = b"[", after: bytes = b"0]") -> list[bytes]:
    return [before + unit * (size // len(unit)) + after for size in (100_000, 400_000)]


@pytest.mark.parametrize(
    "bodies",
    [
        pytest.param(_costly(b'\\"', b"[" * 65 + b'"', b""), id="escapes-never-closed"),
        pytest.param(_costly(b'\\"', b'["', b'"]'), id="escapes"),
        pytest.param(_costly(b"\\", b"", b""), id="backslashes"),
        pytest.param(_costly(b"[],"), id="arrays"),
        pytest.param(_costly(b'{"":0},'), id="objects"),
        pytest.param(_costly(b'"",'), id="strings"),
        pytest.param(_costly(b'"', b"", b""), id="quotes"),
        pytest.param(_costly(b"[", b"", b""), id="nesting"),
        pytest.param(_costly(b"1", b"", b""), id="digits"),
        pytest.param(_costly(b"1" * 309 + b","), id="long-numbers"),
        pytest.param(_costly(b"1." + b"1" * 300 + b"e-300,"), id="long-floats"),
        pytest.param(_costly(b'"a":1,', b"{", b'"a":1}'), id="duplicate-keys"),
        pytest.param(_costly(b"\\ud800", b'["', b'"]'), id="surrogates"),
    ],
)
def test_no_body_costs_more_than_its_bytes(bodies: list[bytes]) -> None:
    """Four times the bytes take at most about four times as long; 8 ms are the noise of a busy machine."""

    def cost(body: bytes) -> float:
        spent = []
        for _ in range(5):
            began = time.process_time()
            with suppress(Poison):
                strict_json(body)
            spent.append(time.process_time() - began)
        return min(spent)

    short, long = map(cost, bodies)
    assert long < 8 * max(short, 0.001), f"{short * 1e3:.1f} ms, then {long * 1e3:.1f} ms"
