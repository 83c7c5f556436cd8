"""A certificate chain as a public authority has it: root, intermediate, leaf."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def write_chain(folder: Path) -> tuple[Path, Path]:
    """Return the root that clients trust, and the file that the server presents.

    The second holds the leaf (for localhost and 127.0.0.1), the intermediate and the leaf's key.
    """
    root = _authority("Root", issuer=None)
    intermediate = _authority("Intermediate", issuer=root)
    leaf = _leaf(intermediate)
    trusted, presented = folder / "root.pem", folder / "server.pem"
    trusted.write_bytes(root.pem)
    presented.touch(mode=0o600)
    presented.write_bytes(leaf.pem + intermediate.pem + leaf.key_pem)
    return trusted, presented


def _authority(name: str, issuer: Issued | None) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begun(name, issuer, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(usage, critical=True)
    return _signed(builder, issuer, key)


def _leaf(issuer: Issued) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = _begun("localhost", issuer, key)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return _signed(builder, issuer, key)


def _begun(
    name: str, issuer: Issued | None, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    issued_by = (issuer.key if issuer else key).public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issued_by), critical=False
        )
    )


def _signed(
    builder: x509.CertificateBuilder, issuer: Issued | None, key: ec.EllipticCurvePrivateKey
) -> Issued:
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)
