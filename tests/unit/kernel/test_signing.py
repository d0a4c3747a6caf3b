"""Only a service's own words, unchanged and under their own id, are believed to be its."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.artifacts.signing import FileSigner, FileVerifier, Nobody, Refused, UnusableKey
from tests.kit import event_keys

SAID = ("id-1", "model.promoted.v1", b'{"model":"support"}')


def test_what_was_signed_is_believed(tmp_path: Path) -> None:
    signer, public = event_keys(tmp_path)
    FileVerifier(public).check(*SAID, "registry", signer.sign(*SAID))


@pytest.mark.parametrize(
    "other",
    [
        ("id-2", SAID[1], SAID[2]),
        (SAID[0], "model.approved.v1", SAID[2]),
        (SAID[0], SAID[1], b'{"model":"other"}'),
        (SAID[0] + SAID[1], "", SAID[2]),
    ],
)
def test_a_signature_is_of_one_id_type_and_body(tmp_path: Path, other: tuple[str, str, bytes]) -> None:
    signer, public = event_keys(tmp_path)
    with pytest.raises(Refused, match="wrong"):
        FileVerifier(public).check(*other, "registry", signer.sign(*SAID))


@given(key_id=st.text(), signature=st.text())
def test_no_made_up_signature_is_believed(key_id: str, signature: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _, public = event_keys(Path(folder))
        for known in (key_id, "registry"):
            with pytest.raises(Refused):
                FileVerifier(public).check(*SAID, "registry", (known, signature))
    with pytest.raises(Refused):
        Nobody().check(*SAID, "registry", (key_id, signature))


@pytest.mark.parametrize("service", ["registry", "serving", ""])
def test_a_key_speaks_for_the_service_it_is_of_and_for_no_other(tmp_path: Path, service: str) -> None:
    signer, public = event_keys(tmp_path, service=service)
    for claimed in ("registry", "serving", ""):
        if claimed == service:
            FileVerifier(public).check(*SAID, claimed, signer.sign(*SAID))
        else:
            with pytest.raises(Refused, match="unknown"):
                FileVerifier(public).check(*SAID, claimed, signer.sign(*SAID))


def test_a_key_without_a_service_is_the_registry_s(tmp_path: Path) -> None:
    signer, public = event_keys(tmp_path)
    [key] = json.loads(public.read_text())["keys"]
    del key["service"]
    public.write_text(json.dumps({"keys": [key]}))
    FileVerifier(public).check(*SAID, "registry", signer.sign(*SAID))


def test_a_key_is_changed_without_a_pause(tmp_path: Path) -> None:
    old, public = event_keys(tmp_path, "old")
    new, other = event_keys(tmp_path, "new")
    verifier = FileVerifier(public)
    with pytest.raises(Refused, match="unknown"):
        verifier.check(*SAID, "registry", new.sign(*SAID))
    both = [json.loads(path.read_text())["keys"][0] for path in (public, other)]
    for keys, believed, refused in ((both, (old, new), ()), (both[1:], (new,), (old,))):
        public.write_text(json.dumps({"keys": keys}))
        os.utime(public, ns=(len(keys), len(keys)))
        for signer in believed:
            verifier.check(*SAID, "registry", signer.sign(*SAID))
        for signer in refused:
            with pytest.raises(Refused, match="unknown"):
                verifier.check(*SAID, "registry", signer.sign(*SAID))


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"kid": "a", "crv": "P-256", "d": "AA"}'])
def test_an_unusable_key_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnusableKey, match=r"key\.json"):
        FileSigner(path)
