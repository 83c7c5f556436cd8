"""Keys are read from PEM files, and a signature is one of them or of none."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from contract import signing
from contract.signing import KeyFileError

ROOT = Path(__file__).parents[3]
PRIVATE, PUBLIC = signing.generate()
OTHER_PRIVATE, OTHER_PUBLIC = signing.generate()


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes) -> bytes:
    """A private key in PEM, with a password or (empty) without."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def test_a_signature_is_verified_by_its_own_key_among_others() -> None:
    """So that two keys can be in force while one takes the other's place."""
    signature = signing.private_key(PRIVATE).sign(b"content")
    both = signing.public_keys(b"# the old one\n" + OTHER_PUBLIC + b"\n# the new one\n" + PUBLIC)
    assert len(both) == 2
    assert signing.is_signed(b"content", signature, both)
    assert not signing.is_signed(b"Content", signature, both)
    assert not signing.is_signed(b"content", signature, both[:1])
    assert not signing.is_signed(b"content", signature, [])


@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), bytes(10_000)])
def test_bytes_that_are_no_signature_verify_nothing(signature: bytes) -> None:
    """Whatever their number."""
    assert not signing.is_signed(b"content", signature, signing.public_keys(PUBLIC))


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (b"", "no public key"),
        (b"ssh-ed25519 AAAA", "no public key"),
        (PRIVATE, "a private key"),
        (PUBLIC + PRIVATE, "a private key"),
        (PUBLIC + PUBLIC[: len(PUBLIC) // 2], "half of one"),
        (PUBLIC + PUBLIC.replace(b"M", b"!", 1), "key 2 can't be read"),
    ],
)
def test_a_file_of_public_keys_is_used_whole_or_not_at_all(pem: bytes, says: str) -> None:
    """Else a key would be missing without a word."""
    with pytest.raises(KeyFileError, match=says):
        signing.public_keys(pem)


def test_keys_of_other_kinds_are_refused() -> None:
    """Ed25519 only, and no passwords, which a job can't be asked for."""
    curve = ec.generate_private_key(ec.SECP256R1())
    public = curve.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(KeyFileError, match="not of Ed25519"):
        signing.public_keys(public)
    with pytest.raises(KeyFileError, match="not of Ed25519"):
        signing.private_key(pem_of(curve, b""))
    locked = pem_of(ed25519.Ed25519PrivateKey.generate(), b"secret")
    for pem in (locked, PUBLIC, b"", b"\xff"):
        with pytest.raises(KeyFileError, match="without a password"):
            signing.private_key(pem)


def test_who_only_names_the_variables_does_not_import_cryptography() -> None:
    """Ingresses and the controller start without it."""
    code = (
        "import sys\n"
        "from contract import manifest, model_directory, signing\n"
        "from serve_app import settings\n"
        "print('cryptography' in sys.modules, 'mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
