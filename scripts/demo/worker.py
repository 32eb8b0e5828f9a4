"""One inference at a time, step by step, none for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.errors import UserError

_END = object()


class Worker:
    """A single thread in which all models run, whoever asks: two inferences never meet.

    Work is an iterator whose steps are short. Whoever asked can give it up at any time, and is told after `seconds`
    that it took too long; a step that has begun is finished all the same, and what comes next waits for it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saywhy-demo")

    async def run(self, steps: Iterator[Any]) -> AsyncIterator[Any]:
        """What each step gives. Raises `UserError` when the time is over."""
        until = time.monotonic() + self.seconds
        while (found := await self._next(steps, until)) is not _END:
            yield found

    async def _next(self, steps: Iterator[Any], until: float) -> Any:
        future = asyncio.wrap_future(self._thread.submit(next, steps, _END))
        try:
            return await asyncio.wait_for(future, max(0.0, until - time.monotonic()))
        except (TimeoutError, asyncio.TimeoutError):  # one and the same from Python 3.11 on
            raise UserError(
                f"this took longer than {self.seconds:g} seconds and was given up; ask for less, or try again later"
            ) from None
