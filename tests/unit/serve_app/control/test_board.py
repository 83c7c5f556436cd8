"""Whoever hangs on a board is told of news, and of nothing else."""

import asyncio
import time

from serve_app.control.board import Board, News

LONG_S = 10.0


def test_who_knows_nothing_is_told_at_once() -> None:
    """So is who knows another revision, be it a later one, as of a process with another clock."""

    async def scenario() -> None:
        board = Board("a", clock_ns=lambda: 7)
        for known in (None, 6, 8):
            async with asyncio.timeout(1):
                assert await board.wait(known, LONG_S) == News(7, "a")

    asyncio.run(scenario())


def test_all_who_wait_are_woken_by_news() -> None:
    """Each of them gets the new value."""

    async def scenario() -> None:
        board = Board("a", clock_ns=lambda: 7)
        waiting = [asyncio.create_task(board.wait(7, LONG_S)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        board.put("b")
        async with asyncio.timeout(1):
            assert await asyncio.gather(*waiting) == [News(8, "b")] * 3
        assert board.value == "b"

    asyncio.run(scenario())


def test_news_between_two_waits_are_not_missed() -> None:
    """The revision says so, though nobody waited when they came; the last of them counts."""

    async def scenario() -> None:
        board = Board("a", clock_ns=lambda: 7)
        known = (await board.wait(None, LONG_S)).revision
        board.put("b")
        board.put("c")
        async with asyncio.timeout(1):
            assert await board.wait(known, LONG_S) == News(9, "c")

    asyncio.run(scenario())


def test_without_news_the_same_comes_again_after_a_while() -> None:
    """A long poll ends before those who hang on it give up."""

    async def scenario() -> None:
        board = Board("a", clock_ns=lambda: 7)
        begun = time.monotonic()
        assert await board.wait(7, 0.05) == News(7, "a")
        assert time.monotonic() - begun >= 0.04

    asyncio.run(scenario())


def test_a_process_that_comes_later_has_later_revisions() -> None:
    """Even after many changes in the one before it: those count nanoseconds."""

    async def scenario() -> None:
        before = Board("a")
        for value in range(1000):
            before.put(str(value))
        told = await before.wait(None, LONG_S)
        await asyncio.sleep(0.001)
        after = await Board("a").wait(told.revision, LONG_S)
        assert after.revision > told.revision

    asyncio.run(scenario())


def test_who_gives_up_waiting_holds_up_nobody() -> None:
    """A client that went away leaves the others their news."""

    async def scenario() -> None:
        board = Board("a", clock_ns=lambda: 7)
        gone, stays = (asyncio.create_task(board.wait(7, LONG_S)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        board.put("b")
        async with asyncio.timeout(1):
            assert await stays == News(8, "b")

    asyncio.run(scenario())
