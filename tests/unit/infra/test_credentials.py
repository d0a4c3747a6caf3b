"""What a stack makes for itself once, and adds to an installation that is older."""

import json
from pathlib import Path

import pytest

from infra.local.credentials import EVENT_KEYS, SIGNERS, event_key, load_or_create
from shared.artifacts.signing import FileSigner, FileVerifier

SAID = ("id-1", "feedback.recorded.v1", b"{}")


def test_each_signer_has_a_key_that_is_known_to_be_its_own(tmp_path: Path) -> None:
    load_or_create(tmp_path)
    verifier = FileVerifier(tmp_path / EVENT_KEYS)
    for service in SIGNERS:
        verifier.check(*SAID, service, FileSigner(tmp_path / event_key(service)).sign(*SAID))
    public = json.loads((tmp_path / EVENT_KEYS).read_text())["keys"]
    assert [key for key in public if "d" in key] == []


@pytest.mark.parametrize("lost", [EVENT_KEYS, *map(event_key, SIGNERS)])
def test_what_an_installation_lacks_is_added_and_what_it_has_stays(tmp_path: Path, lost: str) -> None:
    load_or_create(tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    (tmp_path / lost).unlink()
    load_or_create(tmp_path)
    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {lost, EVENT_KEYS}
    verifier = FileVerifier(tmp_path / EVENT_KEYS)
    for service in SIGNERS:
        verifier.check(*SAID, service, FileSigner(tmp_path / event_key(service)).sign(*SAID))
