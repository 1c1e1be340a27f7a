"""Signed envelopes: only the right key opens an unchanged one, and no message holds a private key."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.signature import (
    PASSWORD_VARIABLE,
    SignatureError,
    open_envelope,
    read_private_key,
    read_public_key,
    write_envelope,
)
from tests.helpers.keys import KINDS, write_key_pair

PAYLOAD = b'{"made": "for a test"}'


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A signed file, and the public key."""
    private, public = write_key_pair(tmp_path / "keys")
    write_envelope(PAYLOAD, read_private_key(private), tmp_path / "statement")
    return tmp_path / "statement", public


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("kind", KINDS)
def test_the_public_key_opens_what_the_private_key_signed(kind: str, tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path, kind)
    write_envelope(PAYLOAD, read_private_key(private), tmp_path / "statement")
    assert open_envelope(tmp_path / "statement", read_public_key(public)) == PAYLOAD
    assert (tmp_path / "statement").read_text().count("\n") == 1  # a line of an in-toto bundle
    assert "PRIVATE" not in (tmp_path / "statement").read_text()


def test_the_signature_is_that_of_the_dsse_protocol(signed: tuple[Path, Path]) -> None:
    path, public = signed
    envelope = json.loads(path.read_text())
    kind = envelope["payloadType"].encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(PAYLOAD), PAYLOAD)
    key = load_pem_public_key(public.read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), message)
    assert base64.b64decode(envelope["payload"]) == PAYLOAD


def test_another_key_does_not_open_it(signed: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = write_key_pair(tmp_path / "other")
    with pytest.raises(SignatureError, match=r"is signed by [0-9a-f]{12}, not by this key, [0-9a-f]{12}"):
        open_envelope(signed[0], read_public_key(other))


def test_a_changed_payload_is_refused(signed: tuple[Path, Path]) -> None:
    path, public = signed
    change(path, payload=base64.b64encode(PAYLOAD + b" ").decode())
    with pytest.raises(SignatureError, match="has changed since"):
        open_envelope(path, read_public_key(public))


def test_a_changed_signature_is_refused(signed: tuple[Path, Path]) -> None:
    path, public = signed
    (signature,) = json.loads(path.read_text())["signatures"]
    change(path, signatures=[signature | {"sig": base64.b64encode(b"x" * 64).decode()}])
    with pytest.raises(SignatureError, match="has changed since"):
        open_envelope(path, read_public_key(public))


def test_another_key_that_claims_the_expected_id_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    path, public = signed
    forger = read_private_key(write_key_pair(tmp_path / "forger")[0])
    write_envelope(b"{}", forger, path)
    (signature,) = json.loads(path.read_text())["signatures"]
    change(path, signatures=[signature | {"keyid": read_public_key(public).keyid}])
    with pytest.raises(SignatureError, match="or is a forgery"):
        open_envelope(path, read_public_key(public))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is not a signed statement"),
        ("[]", "is not a signed statement"),
        ("{}", "is not a signed statement"),
        ("[" * 100_000, "is not a signed statement"),
        ('{"payload": "e30=", "payloadType": "text/html", "signatures": []}', "holds text/html"),
        ('{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}', "signed by nobody"),
        ('{"payload": "e30=", "payloadType": "x", "signatures": [1]}', "is not a signed statement"),
    ],
)
def test_what_is_not_an_envelope_is_refused_in_one_line(content: str, expected: str, signed: tuple[Path, Path]) -> None:
    path, public = signed
    path.write_text(content)
    with pytest.raises(SignatureError, match=expected) as refused:
        open_envelope(path, read_public_key(public))
    assert "\n" not in str(refused.value)


def test_wrong_key_files_are_named_without_their_content(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path)
    (tmp_path / "text").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    cases = [
        (read_private_key, public, "is not a private key"),
        (read_private_key, tmp_path / "text", "is not a private key"),
        (read_private_key, tmp_path / "absent", "cannot be read"),
        (read_public_key, private, "is a private key; expected the public one"),
        (read_public_key, tmp_path / "absent", "cannot be read"),
        (read_public_key, Path(__file__), "is not a public key"),
    ]
    for read, path, expected in cases:
        with pytest.raises(ConfigError, match=expected) as refused:
            read(path)
        assert str(path) in str(refused.value)
        assert "c2VjcmV0" not in str(refused.value)
        assert refused.value.__cause__ is None or isinstance(refused.value.__cause__, OSError)


def test_an_encrypted_key_needs_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = write_key_pair(tmp_path, password="secret word")
    with pytest.raises(ConfigError, match=f"is encrypted; set {PASSWORD_VARIABLE}"):
        read_private_key(private)
    monkeypatch.setenv(PASSWORD_VARIABLE, "another word")
    with pytest.raises(ConfigError, match="cannot be decrypted") as refused:
        read_private_key(private)
    assert "another word" not in str(refused.value)
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret word")
    write_envelope(PAYLOAD, read_private_key(private), tmp_path / "statement")
    assert open_envelope(tmp_path / "statement", read_public_key(public)) == PAYLOAD
