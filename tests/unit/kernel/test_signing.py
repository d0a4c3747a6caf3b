"""Only the registry's own words, unchanged and under their own id, are believed."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.artifacts.signing import FileSigner, FileVerifier, Nobody, Refused, UnusableKey
from tests.kit import registry_keys

SAID = ("id-1", "model.promoted.v1", b'{"model":"support"}')


def test_what_was_signed_is_believed(tmp_path: Path) -> None:
    signer, public = registry_keys(tmp_path)
    FileVerifier(public).check(*SAID, *signer.sign(*SAID))


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
    signer, public = registry_keys(tmp_path)
    with pytest.raises(Refused, match="wrong"):
        FileVerifier(public).check(*other, *signer.sign(*SAID))


@given(key_id=st.text() | st.none(), signature=st.text() | st.none())
def test_no_made_up_signature_is_believed(key_id: str | None, signature: str | None) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _, public = registry_keys(Path(folder))
        for known in (key_id, "registry"):
            with pytest.raises(Refused):
                FileVerifier(public).check(*SAID, known, signature)
    with pytest.raises(Refused):
        Nobody().check(*SAID, key_id, signature)


def test_a_key_is_changed_without_a_pause(tmp_path: Path) -> None:
    old, public = registry_keys(tmp_path, "old")
    new, other = registry_keys(tmp_path, "new")
    verifier = FileVerifier(public)
    with pytest.raises(Refused, match="unknown"):
        verifier.check(*SAID, *new.sign(*SAID))
    both = [json.loads(path.read_text())["keys"][0] for path in (public, other)]
    for keys, believed, refused in ((both, (old, new), ()), (both[1:], (new,), (old,))):
        public.write_text(json.dumps({"keys": keys}))
        os.utime(public, ns=(len(keys), len(keys)))
        for signer in believed:
            verifier.check(*SAID, *signer.sign(*SAID))
        for signer in refused:
            with pytest.raises(Refused, match="unknown"):
                verifier.check(*SAID, *signer.sign(*SAID))


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"kid": "a", "crv": "P-256", "d": "AA"}'])
def test_an_unusable_key_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnusableKey, match=r"key\.json"):
        FileSigner(path)
