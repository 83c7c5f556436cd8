"""API keys: pure. A key is an id, which may be shown, and a secret, of which only a digest is kept.

A client sends both as `ID.SECRET`. Secrets are 256 random bits, so a plain SHA-256 is enough: there
is nothing in them that could be guessed.
"""

import base64
import binascii
import contextlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, get_args

from contract.strict import SettingsError

Scope = Literal["predict", "feedback", "admin", "metrics"]

PREDICT: Final[Scope] = "predict"
FEEDBACK: Final[Scope] = "feedback"
ADMIN: Final[Scope] = "admin"
METRICS: Final[Scope] = "metrics"
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

LOWEST_RATE: Final = 0.001

UNLIMITED: Final = "-"
"""Stands where a key's rate would."""

_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

_WORDS: Final = 4
"""Of a line; the last, the rate, may be left out."""

_NOBODY: Final = sha256(b"").hexdigest()
"""What the secret of an id that isn't known is compared with: that takes as long."""

_MOST_BYTES: Final = 512
"""Of credentials that are looked at; longer ones are nobody's."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key."""

    id: str
    digest: str
    """SHA-256 of the secret, in hexadecimal."""
    scopes: frozenset[Scope]
    rate: float | None = None
    """Requests a second that the whole service lets through; None for no limit."""
    note: str = ""
    """Whose it is, for people."""

    def __str__(self) -> str:
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        rate = UNLIMITED if self.rate is None else f"{self.rate:g}"
        note = f"  # {self.note}" if self.note else ""
        return f"{self.id} {self.digest} {scopes} {rate}{note}"


class Keyring:
    """Keys by their id."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, headers: Iterable[tuple[bytes, bytes]]) -> ApiKey | None:
        """Return the key whose id and secret the headers hold, in constant time for each id."""
        sent = _credentials(headers)
        if sent is None:
            return None
        key = self._keys.get(sent[0].decode("latin-1"))
        digest = sha256(sent[1]).hexdigest()
        is_right = hmac.compare_digest(digest, _NOBODY if key is None else key.digest)
        return key if is_right else None


def carries_key(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the headers hold what could be a key."""
    return _credentials(headers) is not None


def create(scopes: str, rate: str = UNLIMITED, note: str = "") -> tuple[ApiKey, str]:
    """Return a new key, and what its client has to send.

    `scopes` are joined by commas, `rate` is in requests a second, or `-`. Raises SettingsError.
    """
    key_id = f"edv_{secrets.token_hex(_ID_BYTES)}"
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    digest = sha256(secret.encode()).hexdigest()
    line = f"{key_id} {digest} {scopes.replace(' ', '')} {rate} # {note}"
    return parse_line(line, "the new key"), f"{key_id}.{secret}"


def parse(text: str, where: str) -> list[ApiKey]:
    """Return the keys in a text with a key a line.

    A line is `ID DIGEST SCOPE,SCOPE RATE  # NOTE`, RATE requests a second or `-`. Raises
    SettingsError that names `where` and the line.
    """
    found: list[ApiKey] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.partition("#")[0].strip():
            found.append(parse_line(line, f"{where}, line {number}"))
    return found


def unique(keys: Iterable[ApiKey], where: str) -> Keyring:
    """Return the keys by their id. Raises SettingsError if one stands twice."""
    by_id: dict[str, ApiKey] = {}
    for key in keys:
        if key.id in by_id:
            raise SettingsError(f"{where}: the key {key.id} stands twice: remove one")
        by_id[key.id] = key
    return Keyring(by_id.values())


def parse_line(line: str, where: str) -> ApiKey:
    """Return the key of one line, as in `parse`. Raises SettingsError."""
    told, _, note = line.partition("#")
    parts = told.split()
    if len(parts) == _WORDS - 1:
        parts.append(UNLIMITED)
    if len(parts) != _WORDS:
        raise SettingsError(
            f"{where}: must be `ID SHA256 SCOPE,SCOPE RATE`, as `python -m serve_app keys create` "
            f"writes it; found {len(parts)} words"
        )
    key_id, digest, scopes, rate = parts
    if not _ID.fullmatch(key_id):
        raise SettingsError(f"{where}: an id has 1 to 64 letters, digits, `_` and `-`")
    if not _DIGEST.fullmatch(digest):
        raise SettingsError(f"{where}: key {key_id}: the second word must be a SHA-256, 64 digits")
    if not note.strip().isprintable() or ";" in note:
        raise SettingsError(f"{where}: key {key_id}: the note must be printable, without `;`")
    return ApiKey(
        key_id,
        digest,
        _scopes(scopes, f"{where}: key {key_id}"),
        _rate(rate, f"{where}: key {key_id}"),
        note.strip(),
    )


def _scopes(text: str, where: str) -> frozenset[Scope]:
    known: Mapping[str, Scope] = {scope: scope for scope in SCOPES}
    named = text.split(",")
    if unknown := [one for one in named if one not in known]:
        raise SettingsError(f"{where}: no scope {unknown[0]!r}: there are {', '.join(SCOPES)}")
    return frozenset(known[one] for one in named)


def _rate(text: str, where: str) -> float | None:
    if text == UNLIMITED:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not LOWEST_RATE <= rate < float("inf"):
        raise SettingsError(
            f"{where}: the rate must be requests a second, {LOWEST_RATE:g} at least, or "
            f"`{UNLIMITED}`; got {text!r}"
        )
    return rate


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
    """Return the id and the secret that headers hold, None if there aren't any.

    `x-api-key: ID.SECRET`, `authorization: Bearer ID.SECRET`, or Basic with both, which browsers
    ask for.
    """
    authorization = None
    for name, value in headers:
        if len(value) > _MOST_BYTES:
            continue
        if name == b"x-api-key":  # the other may be somebody else's, of a gateway in front
            return _split(value, b".")
        if name == b"authorization" and authorization is None:
            authorization = value
    if authorization is None:
        return None
    scheme, _, sent = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return _split(sent.strip(), b".")
    if scheme.lower() == b"basic":
        with contextlib.suppress(binascii.Error):
            return _split(base64.b64decode(sent.strip(), validate=True), b":")
    return None


def _split(sent: bytes, by: bytes) -> tuple[bytes, bytes] | None:
    key_id, found, secret = sent.partition(by)
    return (key_id, secret) if found else None
