"""Which version answers a client: the same at every request, in every process.

A client's place doesn't depend on the weight, so whoever is in at 1% stays in at 5%.
"""

from hashlib import blake2b


def position(salt: bytes, key: bytes) -> float:
    """Return the client's place in [0, 1); `salt`, of at most 64 bytes, deals the places anew."""
    return _fraction(blake2b(key, digest_size=8, key=salt).digest())


def is_challenger(salt: bytes, key: bytes, weight: float) -> bool:
    """True for a share `weight` of all clients."""
    return position(salt, key) < weight


def _fraction(digest: bytes) -> float:
    """The upper 53 bits, as many as a float holds: all 64 could round up to 1."""
    return (int.from_bytes(digest) >> 11) * 2.0**-53
