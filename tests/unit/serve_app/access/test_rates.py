"""A key is used as often as it may be, by all ingresses together."""

import asyncio
from dataclasses import replace

import pytest

from serve_app.access import keys
from serve_app.access.rates import Rates
from serve_app.errors import RateLimitedError

KEY, _ = keys.create("predict", "100")


async def taken(rates: Rates, key: keys.ApiKey, tries: int) -> int:
    """How many of so many requests at once are let through."""
    through = 0
    for _ in range(tries):
        try:
            await rates.take(key)
            through += 1
        except RateLimitedError:
            pass
    return through


@pytest.mark.parametrize(("ingresses", "expected"), [(1, 100), (2, 50), (3, 33), (1000, 1)])
def test_an_ingress_lets_its_share_through(ingresses: int, expected: int) -> None:
    """A second's worth at once, and one at least."""

    async def run() -> int:
        rates = Rates()
        rates.divide(ingresses)
        return await taken(rates, KEY, 300)

    assert asyncio.run(run()) == pytest.approx(expected, abs=2)


def test_it_comes_back_with_time() -> None:
    """At the key's rate; the other keys have rates of their own."""

    async def run() -> tuple[int, int, int]:
        rates = Rates()
        first = await taken(rates, KEY, 300)
        await asyncio.sleep(0.1)
        again = await taken(rates, KEY, 300)
        return first, again, await taken(rates, replace(KEY, id="other"), 300)

    first, again, other = asyncio.run(run())
    assert first == pytest.approx(100, abs=2)
    assert 8 <= again <= 40
    assert other == pytest.approx(100, abs=2)


def test_a_refusal_says_when_to_come_back() -> None:
    """A slow key has to wait for longer; one without a rate never does."""

    async def run() -> str:
        rates = Rates()
        slow = replace(KEY, id="slow", rate=0.2)
        await rates.take(slow)
        with pytest.raises(RateLimitedError) as refused:
            await rates.take(slow)
        assert await taken(rates, replace(KEY, id="free", rate=None), 1000) == 1000
        return refused.value.headers["retry-after"]

    assert asyncio.run(run()) == "5"
