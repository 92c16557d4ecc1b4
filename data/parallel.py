"""The same function of many items, in several processes."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial

from tqdm import tqdm

from common.words import how_many
from data.records import DataError

STOPPING = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def in_parallel(function: Callable, items: list, workers: int, name: str, chunk: int, fewer: str) -> Iterator:
    """function(item) for each item, in order, with a progress bar.

    name     of the items, for the bar
    chunk    items that a process takes at a time
    fewer    how to ask for fewer processes, for the message
    raises   DataError where a process dies
    """
    progress = partial(tqdm, desc=name, total=len(items), disable=None)
    workers = min(workers, -(-len(items) // chunk))
    if workers <= 1:
        yield from progress(map(function, items))
        return
    # Started afresh, not forked: the caller may have threads (PyTorch's), which a fork does not survive.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, only_the_caller_stops) as pool:
            with signals_later():  # while they start, one would end them with a trace
                results = pool.map(function, items, chunksize=chunk)
            yield from progress(results)
    except BrokenProcessPool:
        raise DataError(
            f"one of {how_many(workers, 'process', 'processes')} that work on {name} died, perhaps for lack of "
            f"memory; try fewer ({fewer})"
        ) from None


def only_the_caller_stops() -> None:
    """Ctrl-C, and a signal to the whole group, reach the caller, which ends its processes after a chunk."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_later() -> Iterator[None]:
    """What stops a program reaches it after this. Processes that start inside are out of its reach, but on Windows."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
