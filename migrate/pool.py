"""Bounded concurrency: many calls in flight, never more work in memory than twice the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


def in_threads(
    work: Iterable[Work], do: Callable[[Work], Result], *, threads: int, name: str = "move"
) -> Iterator[Result]:
    """Yield `do(item)` for each item, as they end, in any order.

    `work` is read only as fast as results are taken. The first error stops the reading; the calls
    already in flight end, the results of those that succeeded are still yielded (what they did has
    happened and must be recorded), then the error is raised.
    """
    items = iter(work)
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
    try:
        pending: set[Future[Result]] = {pool.submit(do, item) for item in islice(items, 2 * threads)}
        failure: BaseException | None = None
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            results, errors = _sorted_out(done)
            yield from results
            if errors and failure is None:
                failure = errors[0]
                pending = {future for future in pending if not future.cancel()}
            if failure is None:
                pending |= {pool.submit(do, item) for item in islice(items, len(done))}
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _sorted_out(done: Iterable[Future[Result]]) -> tuple[list[Result], list[BaseException]]:
    results: list[Result] = []
    errors: list[BaseException] = []
    for future in done:
        error = future.exception()
        if error is None:
            results.append(future.result())
        else:
            errors.append(error)
    return results, errors
