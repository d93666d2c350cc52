"""Work that is not done before a test says so."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class LaterExecutor(Executor):
    """Does nothing before it is told to."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def work(self) -> None:
        """Everything that was submitted so far."""
        for _ in range(len(self.waiting)):
            future, work = self.waiting.popleft()
            try:
                future.set_result(work())
            except RuntimeError as error:
                future.set_exception(error)
