"""A request ends with its client."""

import asyncio
import gc
import weakref

import pytest
from starlette.types import Message

from serve_app.deadline import Alarms
from serve_app.http.body import ClientGoneError
from serve_app.http.watch import Watch

AFTER_S = 0.01


async def gone() -> Message:
    """The client has hung up."""
    return {"type": "http.disconnect"}


async def patient() -> Message:
    """The client waits."""
    await asyncio.Event().wait()
    raise AssertionError


def test_a_client_that_hangs_up_ends_its_request() -> None:
    """And nothing else: the task can go on."""

    async def scenario() -> None:
        task = asyncio.current_task()
        assert task is not None
        with (
            pytest.raises(ClientGoneError),
            Watch(asyncio.get_running_loop(), Alarms(AFTER_S), gone),
        ):
            await asyncio.sleep(5)
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 2))


def test_who_waits_is_answered() -> None:
    """Sooner or later; a cancellation from elsewhere stays one."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        alarms = Alarms(AFTER_S)
        for receive, pause_s in ((gone, 0.0), (patient, 0.0), (patient, 0.05)):
            with Watch(loop, alarms, receive):
                await asyncio.sleep(pause_s)

        async def watched() -> None:
            with Watch(loop, alarms, patient):
                await asyncio.sleep(5)

        task = asyncio.create_task(watched())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_a_watch_leaves_nothing_to_the_garbage_collector() -> None:
    """One that has begun to wait is gone as soon as its request is."""

    async def scenario() -> None:
        async def receive() -> Message:
            return await patient()

        gone_with_it = weakref.ref(receive)
        with Watch(asyncio.get_running_loop(), Alarms(AFTER_S), receive):
            await asyncio.sleep(5 * AFTER_S)
        del receive
        await asyncio.sleep(AFTER_S)  # the task that waited is told
        assert gone_with_it() is None

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
