"""A wait that is too long ends with TimeoutError, and nothing else does."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from serve_app.deadline import Alarm, Alarms, Deadline


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, and then some, so that late timers would show."""

    async def and_then() -> None:
        async with asyncio.timeout(10):
            await test
            await asyncio.sleep(0.05)

    asyncio.run(and_then())


async def wait(delay_s: float, work_s: float) -> str:
    """Work under a deadline."""
    with Deadline(asyncio.get_running_loop(), Alarms(delay_s)):
        await asyncio.sleep(work_s)
    return "done"


def test_a_wait_that_is_too_long_is_cut_off() -> None:
    """And the task goes on as if it had never been cancelled."""

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await wait(0.01, 5)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert await wait(5, 0) == "done"

    run(scenario())


def test_a_wait_that_ends_in_time_is_left_alone_afterwards() -> None:
    """Its timer has no effect any more."""

    async def scenario() -> None:
        assert await wait(0.02, 0) == "done"

    run(scenario())


@pytest.mark.parametrize("delay_s", [5.0, 0.0])
def test_a_cancellation_from_elsewhere_stays_one(delay_s: float) -> None:
    """Even when it comes together with the deadline."""

    async def scenario() -> None:
        task = asyncio.create_task(wait(delay_s, 5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


def test_an_error_passes_through() -> None:
    """As it is."""

    async def scenario() -> None:
        with (
            pytest.raises(ValueError, match="mine"),
            Deadline(asyncio.get_running_loop(), Alarms(5)),
        ):
            raise ValueError("mine")

    run(scenario())


@pytest.mark.parametrize(("outer_s", "inner_s"), [(0.01, 5.0), (5.0, 0.01)])
def test_deadlines_nest(outer_s: float, inner_s: float) -> None:
    """Whichever passes, its own block ends."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ended = []
        with pytest.raises(TimeoutError), Deadline(loop, Alarms(outer_s)):
            try:
                await wait(inner_s, 5)
            except TimeoutError:
                ended.append("inner")
                raise
        assert ended == (["inner"] if inner_s < outer_s else [])

    run(scenario())


def test_many_deadlines_need_one_timer() -> None:
    """Each passes at its own time, those that ended before never, and new ones count anew."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        alarms = Alarms(0.1)
        begun = loop.time()
        passed: dict[int, float] = {}

        async def waits(number: int, delay_s: float, work_s: float) -> None:
            await asyncio.sleep(delay_s)
            try:
                with Deadline(loop, alarms):
                    await asyncio.sleep(work_s)
            except TimeoutError:
                passed[number] = loop.time() - begun - delay_s

        works = {0: (0.0, 0.0), 1: (0.0, 5.0), 2: (0.05, 5.0), 3: (0.07, 0.0), 4: (0.3, 5.0)}
        timers = []
        call_at = loop.call_at

        def counted(when: float, *call: Any, **context: Any) -> asyncio.TimerHandle:
            if call[0] == alarms._look:
                timers.append(when)
            return call_at(when, *call, **context)

        loop.call_at = counted  # type: ignore[method-assign,assignment]
        await asyncio.gather(*(waits(number, *work) for number, work in works.items()))
        assert sorted(passed) == [1, 2, 4]
        assert all(0.09 < took_s < 1.0 for took_s in passed.values())
        assert len(timers) <= 3  # the first, the one after it, and the last

    run(scenario())


def test_the_timer_of_an_alarm_for_one_ends_with_it() -> None:
    """A client's own deadline leaves nothing behind."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        alarm = Alarm(30)
        with Deadline(loop, alarm):
            timer = alarm._timer
            assert timer is not None
            assert not timer.cancelled()
        assert timer.cancelled()
        with Deadline(loop, alarm):  # it can be set again
            assert alarm._timer is not None
        with pytest.raises(TimeoutError), Deadline(loop, Alarm(0.01)):
            await asyncio.sleep(5)

    run(scenario())
