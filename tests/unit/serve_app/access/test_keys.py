"""A key is found by what its client sends, and by nothing else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.strict import SettingsError
from serve_app.access import keys
from serve_app.access.keys import Keyring

KEY, SENT = keys.create("predict,feedback", "50", "the shop")
ID, SECRET = SENT.split(".")
RING = Keyring([KEY])


def header(name: str, value: str) -> list[tuple[bytes, bytes]]:
    """Headers with this one among others."""
    return [(b"host", b"x"), (name.encode(), value.encode()), (b"accept", b"*/*")]


def basic(key_id: str, secret: str) -> str:
    """What a browser sends."""
    return "Basic " + base64.b64encode(f"{key_id}:{secret}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        header("x-api-key", SENT),
        header("authorization", f"Bearer {SENT}"),
        header("authorization", f"bearer  {SENT}"),
        header("authorization", basic(ID, SECRET)),
        header("authorization", "Bearer a.gateways.token") + header("x-api-key", SENT),
    ],
)
def test_a_key_is_found_however_it_is_sent(headers: list[tuple[bytes, bytes]]) -> None:
    """By a header of its own, as a token, or as user and password."""
    assert RING.find(headers) is KEY


@pytest.mark.parametrize(
    "headers",
    [
        [],
        header("authorization", SENT),
        header("authorization", "Bearer"),
        header("authorization", f"Digest {SENT}"),
        header("authorization", "Basic !!!"),
        header("authorization", basic(ID, "")),
        header("x-api-key", ""),
        header("x-api-key", ID),
        header("x-api-key", f"{ID}."),
        header("x-api-key", f"{ID}.{SECRET[:-1]}"),
        header("x-api-key", f"{ID}.{SECRET}x"),
        header("x-api-key", f"other.{SECRET}"),
        header("x-api-key", f".{SECRET}"),
        header("x-api-key", f"{ID}.{KEY.digest}"),
        header("x-api-key", "a." + "b" * 600),
        header("x-api-key", f"wrong.one, {SENT}"),
        header("x-api-key", "wrong.one") + header("authorization", f"Bearer {SENT}"),
        header("x-api-key", "") + header("authorization", ""),
    ],
)
def test_nothing_else_is_a_key(headers: list[tuple[bytes, bytes]]) -> None:
    """Neither a part of one, nor its digest, nor another's id; the id of nobody has no secret."""
    assert RING.find(headers) is None


@given(st.binary(max_size=700))
def test_no_bytes_break_the_search(sent: bytes) -> None:
    """Whatever a client sends."""
    for name in (b"x-api-key", b"authorization"):
        for value in (sent, b"Bearer " + sent, b"Basic " + base64.b64encode(sent)):
            assert RING.find([(name, value)]) is None


def test_a_line_says_all_but_the_secret() -> None:
    """It is written as it is read, and two keys are never the same."""
    assert SECRET not in str(KEY)
    assert keys.parse(str(KEY), "here") == [KEY]
    assert keys.create("admin")[1] != keys.create("admin")[1]
    assert KEY.scopes == {"predict", "feedback"}
    assert (KEY.rate, KEY.note) == (50.0, "the shop")


def test_keys_stand_a_line_each() -> None:
    """Comments and blank lines are no keys."""
    other, _ = keys.create("admin")
    text = f"# ours\n\n{KEY}\n  # nothing\n{other}\n"
    assert keys.parse(text, "here") == [KEY, other]
    (bare,) = keys.parse(f"{KEY.id} {KEY.digest} admin", "here")
    assert bare.scopes == {"admin"}
    assert bare.rate is None


DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("just-an-id", "found 1 words"),
        (f"a {DIGEST} predict 5 more", "found 5 words"),
        (f"a.b {DIGEST} predict", "an id has"),
        ("a secret predict", "must be a SHA-256"),
        (f"a {DIGEST.upper()} predict", "must be a SHA-256"),
        (
            f"a {DIGEST} predict,root",
            "no scope 'root': there are predict, feedback, admin, metrics",
        ),
        (f"a {DIGEST} predict 0", "must be requests a second, 0.001 at least, or `-`; got '0'"),
        (f"a {DIGEST} predict nan", "got 'nan'"),
        (f"a {DIGEST} predict inf", "got 'inf'"),
        (f"a {DIGEST} predict 5e-324", "0.001 at least"),
        (f"a {DIGEST} predict - # x\u2028b {DIGEST} admin", "printable"),
        (f"a {DIGEST} predict fast", "got 'fast'"),
        (f"a {DIGEST} predict - # \x1b[31m", "printable"),
    ],
)
def test_a_line_that_is_no_key_is_named(line: str, says: str) -> None:
    """With where it stands and what is wrong."""
    with pytest.raises(SettingsError, match="the file, line 2") as refused:
        keys.parse(f"# ours\n{line}", "the file")
    assert says in str(refused.value)


def test_an_id_stands_once() -> None:
    """Else a revoked key could live on."""
    with pytest.raises(SettingsError, match=f"{ID} stands twice"):
        keys.unique([KEY, KEY], "the file")
