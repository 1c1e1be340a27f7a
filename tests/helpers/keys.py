"""Key pairs for tests, as PEM files."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

KINDS = ("ed25519", "p256", "rsa")


def write_key_pair(folder: Path, kind: str = "ed25519", password: str | None = None) -> tuple[Path, Path]:
    """Write a new private key and its public half."""
    key = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, locked))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "key.pub").write_bytes(key.public_key().public_bytes(pem, spki))
    return folder / "key.pem", folder / "key.pub"
