"""Sign bytes with a private key and check them with the public one: PEM keys, DSSE envelopes, by securesystemslib.

A private key is read from its file for the time of one signature. No message contains any part of a key but its id,
which is a hash of the public key.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssia_zoo.errors import ConfigError, WeightError, one_line
from ssia_zoo.extras import require_packages
from ssia_zoo.files import atomic_write

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PASSWORD_VARIABLE = "SSIA_ZOO_KEY_PASSWORD"
"""Environment variable with the password of an encrypted private key."""

PAYLOAD_TYPE = "application/vnd.in-toto+json"

_MAX_KEY_BYTES = 2**16
_MAX_ENVELOPE_BYTES = 2**26
_NEW_KEY = "make one with `openssl genpkey -algorithm ed25519 -out key.pem`"
_PUBLIC_HALF = "`openssl pkey -in key.pem -pubout -out key.pub` writes it"

logging.getLogger("securesystemslib").setLevel(logging.CRITICAL)  # it logs bad signatures, which are reported here


class SignatureError(WeightError):
    """A statement is not signed by the expected key, or has changed since."""


def read_private_key(path: Path) -> CryptoSigner:
    """Read a private key: PEM, Ed25519, ECDSA or RSA, perhaps encrypted.

    Raises:
        ConfigError: If there is none, or securesystemslib is not installed.
    """
    content = _read_key("sign", path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    password = os.environ.get(PASSWORD_VARIABLE)
    if b"ENCRYPTED" in content and password is None:
        raise ConfigError(f"`sign` {path}: the key is encrypted; set {PASSWORD_VARIABLE} to its password")
    try:
        secret = password.encode() if password is not None and b"ENCRYPTED" in content else None
        return CryptoSigner(load_pem_private_key(content, secret))
    except (ValueError, TypeError, UnsupportedAlgorithm):  # their text may quote the file
        pass
    if b"ENCRYPTED" in content:
        raise ConfigError(f"`sign` {path}: cannot be decrypted; check the password in {PASSWORD_VARIABLE}")
    raise ConfigError(f"`sign` {path}: is not a private key (PEM; Ed25519, ECDSA on P-256/384/521 or RSA); {_NEW_KEY}")


def read_public_key(path: Path) -> SSlibKey:
    """Read a public key: PEM, Ed25519, ECDSA or RSA.

    Raises:
        ConfigError: If there is none, or securesystemslib is not installed.
    """
    content = _read_key("check", path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    if is_private_key(content):
        raise ConfigError(f"`check` {path}: is a private key; expected the public one: {_PUBLIC_HALF}")
    try:
        return SSlibKey.from_crypto(load_pem_public_key(content))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass
    raise ConfigError(f"`check` {path}: is not a public key (PEM; Ed25519, ECDSA or RSA); {_PUBLIC_HALF}")


def _read_key(setting: str, path: Path) -> bytes:
    require_packages("signing", ["securesystemslib", "cryptography"], "'ssia-zoo[sign]'")
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"`{setting}` {path}: cannot be read ({one_line(error)}); {_NEW_KEY}") from error


def is_private_key(content: bytes) -> bool:
    """Whether a file's content looks like a private key in PEM or OpenSSH format."""
    return re.search(rb"^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----", content, re.MULTILINE) is not None


def write_envelope(payload: bytes, signer: CryptoSigner, path: Path) -> None:
    """Sign an in-toto statement and write the envelope as one line of JSON.

    Raises:
        ConfigError: If the file cannot be written.
    """
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    try:
        with atomic_write(path) as new:
            new.write_text(json.dumps(envelope.to_dict()) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({one_line(error)}); choose another `statement`") from error


def open_envelope(path: Path, key: SSlibKey) -> bytes:
    """Read an envelope, check its signature, and return the signed statement.

    Raises:
        SignatureError: If it is not an envelope, or not signed by this key.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    try:
        envelope = Envelope.from_dict(_read_json(path))
        signers = sorted(envelope.signatures)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        reason = f"{type(error).__name__}: {one_line(error, 100)}"
        raise SignatureError(f"{path} is not a signed statement ({reason})") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise SignatureError(f"{path} holds {one_line(ValueError(envelope.payload_type), 60)}, not {PAYLOAD_TYPE}")
    if key.keyid not in signers:
        names = ", ".join(one_line(ValueError(name), 12) for name in signers[:3]) or "nobody"
        raise SignatureError(f"{path} is signed by {names}, not by this key, {short_id(key)}")
    try:
        envelope.verify([key], 1)
    except VerificationError as error:
        raise SignatureError(f"{path} has changed since {short_id(key)} signed it, or is a forgery") from error
    return bytes(envelope.payload)


def _read_json(path: Path) -> Any:
    if path.stat().st_size > _MAX_ENVELOPE_BYTES:
        raise ValueError(f"{path.stat().st_size:,} bytes")
    return json.loads(path.read_text(encoding="utf-8"))


def short_id(key: SSlibKey) -> str:
    """Return the first digits of a key's id."""
    return str(key.keyid[:12])
