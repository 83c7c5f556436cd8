"""How replicas hang on the controller: one long poll after another, for as long as they live."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serve_app.control.board import News

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

UNANSWERED: Final = (RayError, RayServeException, grpc.RpcError, TimeoutError)
"""What a call to the controller raises while there's none, or it doesn't answer."""

ASK_TIMEOUT_S: Final = 30.0
"""Longest that a long poll, and a controller that is being replaced, are waited for."""

RETRY_S: Final = 0.5

FIRST_TIMEOUT_S: Final = 20.0
"""How long a replica that starts waits for the controller, which may start at the same time."""

Ask = Callable[[int | None], Awaitable[News[T]]]
"""(revision that is known) -> news, or the same again after a while."""


async def first(ask: Ask[T]) -> News[T] | None:
    """Return what the controller says; None if it doesn't within FIRST_TIMEOUT_S."""
    try:
        async with asyncio.timeout(FIRST_TIMEOUT_S):
            return await ask(None)
    except UNANSWERED as error:
        logger.warning("the controller did not answer: %s", error)
        return None


def keep_following(
    ask: Ask[T],
    use: Callable[[T], Awaitable[None]],
    lost: Callable[[], None] = lambda: None,
    again: asyncio.Event | None = None,
) -> asyncio.Task[None]:
    """Start to call `use` with all that comes; `lost` when the controller didn't answer.

    Once `again` is set, the poll under way is given up, and the controller asked anew.
    """

    async def follow() -> None:
        known: int | None = None
        while True:
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    news = await _unless(again, ask(known))
                if news is not None:
                    await use(news.value)
                    known = news.revision
            except UNANSWERED as error:
                logger.debug("no news of the controller: %s", error)
                lost()
                await asyncio.sleep(RETRY_S)
            except Exception:
                logger.exception("news of the controller could not be used")
                await asyncio.sleep(RETRY_S)

    # An empty context: this outlives the request that happens to be the first.
    loop = asyncio.get_running_loop()
    return loop.create_task(follow(), context=contextvars.Context())


async def _unless(again: asyncio.Event | None, answer: Awaitable[T]) -> T | None:
    """Return the answer, or None as soon as `again` is set."""
    if again is None:
        return await answer
    asked, called = asyncio.ensure_future(answer), asyncio.ensure_future(again.wait())
    try:
        await asyncio.wait({asked, called}, return_when=asyncio.FIRST_COMPLETED)
        again.clear()
        return asked.result() if asked.done() else None
    finally:
        asked.cancel()
        called.cancel()


def check(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Raise if a task that runs as long as its replica has ended."""
    for task in tasks:
        if task.done():
            raise RuntimeError(f"{task.get_coro()} has ended")


def handle_ask(method: Any, *arguments: Callable[[], Any]) -> Ask[Any]:
    """Return what calls a method of the controller's handle with what `arguments` give then."""

    async def ask(known: int | None) -> News[Any]:
        news: News[Any] = await method.remote(known, *(argument() for argument in arguments))
        return news

    return ask
