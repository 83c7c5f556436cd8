"""Whoever asks at about the same time shares an answer."""

import asyncio

import pytest

from serve_app.calls.shared import Shared
from serve_app.errors import NotReadyError


def test_many_who_ask_cost_one_question() -> None:
    """Also for a while after it is answered; then it is asked anew."""

    async def scenario() -> None:
        asked = 0

        async def ask() -> None:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.02)

        shared = Shared(ask, keep_s=0.5)
        await asyncio.gather(*(shared() for _ in range(100)))
        await shared()
        assert asked == 1
        await asyncio.sleep(0.52)
        await shared()
        assert asked == 2

    asyncio.run(scenario())


def test_a_failure_is_everybodys_and_a_cancellation_ones_own() -> None:
    """The first to ask may hang up."""

    async def scenario() -> None:
        async def ask() -> None:
            await asyncio.sleep(0.02)
            raise NotReadyError("no")

        shared = Shared(ask, keep_s=1.0)
        first, second = (asyncio.create_task(shared()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        for one in (second, shared()):
            with pytest.raises(NotReadyError):
                await one

    asyncio.run(scenario())
