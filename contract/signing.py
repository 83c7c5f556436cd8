"""Ed25519 signatures over bytes, and the PEM files that hold the keys.

`cryptography` is imported where it is used: most processes that import this module never sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

KEY_FILE_VARIABLE: Final = "ENDEAVOUR_SIGNING_KEY_FILE"
"""Names the file with the private key, where models are trained."""

PUBLIC_KEYS_VARIABLE: Final = "ENDEAVOUR_SIGNING_PUBLIC_KEYS"
"""Names the file with the public keys, where models are served."""

_BLOCK: Final = re.compile(rb"-----BEGIN ([^-]+)-----.*?-----END \1-----", re.DOTALL)


class KeyFileError(Exception):
    """A file of keys that can't be used; the message is one line."""


def generate() -> tuple[bytes, bytes]:
    """Return a new private key and its public key, both as PEM."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """Return the private key in a PEM file. Raises KeyFileError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError("no private key in PEM without a password") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError("its key is not of Ed25519")
    return key


def public_keys(pem: bytes) -> list[Ed25519PublicKey]:
    """Return all public keys in a PEM file; text around them is left out. Raises KeyFileError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    found = []
    for number, block in enumerate(_BLOCK.finditer(pem), start=1):
        if b"PRIVATE" in block[1]:
            raise KeyFileError("it holds a private key, which belongs where models are trained")
        try:
            key = serialization.load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"its key {number} can't be read") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise KeyFileError(f"its key {number} is not of Ed25519")
        found.append(key)
    if not found or pem.count(b"-----BEGIN") != len(found):
        raise KeyFileError("it holds no public key in PEM, or half of one")
    return found


def is_signed(content: bytes, signature: bytes, keys: Iterable[Ed25519PublicKey]) -> bool:
    """Whether one of the keys verifies a signature."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    for key in keys:
        try:
            key.verify(signature, content)
        except InvalidSignature:
            continue
        return True
    return False
