"""What is kept away from the environment's proxies."""

import pytest

from contract import proxies


@pytest.mark.parametrize(
    ("before", "lower", "upper"),
    [
        ({}, "127.0.0.1,localhost", "127.0.0.1,localhost"),
        ({"no_proxy": "*"}, "*", "*"),
        ({"NO_PROXY": "a.b"}, "a.b,127.0.0.1,localhost", "a.b,127.0.0.1,localhost"),
        (
            {"no_proxy": "localhost, a.b", "NO_PROXY": "c"},
            "localhost,a.b,127.0.0.1",
            "c,127.0.0.1,localhost",
        ),
    ],
)
def test_this_machine_is_added_to_what_is_named(
    before: dict[str, str], lower: str, upper: str
) -> None:
    """Once, and what stands under one of the names only is not lost by the other."""
    environ = dict(before)
    for _ in range(2):
        proxies.keep_loopback_off(environ)
        assert environ == {"no_proxy": lower, "NO_PROXY": upper}
