"""Processes that load images: how they start, and what it means when one of them dies."""

import errno
import multiprocessing.queues
import os
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from utils.stop import STOPPING

MEMORY = "the machine's memory is used up: lower DATA.WORKERS, which is {workers}"
SHARED_MEMORY = (
    "the shared memory (/dev/shm), through which batches come, is full: enlarge it (of a container: --shm-size 8g), or "
    "lower DATA.WORKERS, which is {workers}; 0 needs none"
)
FILES = (
    "too many files are open: raise the limit (ulimit -n 65536) in the shell that starts the program, or lower "
    "DATA.WORKERS, which is {workers}; 0 needs none"
)
PROCESSES = "the system starts no further process: lower DATA.WORKERS, which is {workers}, or raise ulimit -u"
UNKNOWN = (
    "perhaps for lack of memory, of shared memory (/dev/shm) or of file handles (ulimit -n): lower DATA.WORKERS, which "
    "is {workers}; with 0 the error itself is seen"
)
BY_NUMBER = {
    errno.ENOSPC: SHARED_MEMORY, errno.EMFILE: FILES, errno.ENFILE: FILES, errno.ENOMEM: MEMORY,
    errno.EAGAIN: PROCESSES,
}
# What torch's and the system's messages say, and what it means; the first that is found counts.
BY_WORDS = {
    r"Too many open files|received \d items of ancdata": FILES,
    r"DefaultCPUAllocator|MemoryError|Cannot allocate memory|signal: (Killed|SIGKILL)": MEMORY,
    r"Bus error|SIGBUS|No space left|shared memory|</torch_": SHARED_MEMORY,
}


class LoaderError(RuntimeError):
    """A process that loads images died, or could not be started; the message says why and what to change."""


def start_worker(_worker: int) -> None:
    """For DataLoader's `worker_init_fn`."""
    for number in STOPPING:  # Ctrl-C and schedulers signal the whole process group, and the last batch is wanted
        signal.signal(number, signal.SIG_IGN)
    # Python's own handler prints a trace and goes on, while the main process waits for the lost batch for ever.
    queue: Any = multiprocessing.queues.Queue
    queue._on_queue_feeder_error = staticmethod(end_worker)


def end_worker(error: Exception, _item: object) -> None:
    """A batch could not be handed over: end the process with a status that tells the main process why."""
    number = getattr(error, "errno", None) or next(
        (n for n in BY_NUMBER if os.strerror(n) in str(error)), errno.ENOSPC if "shared memory" in str(error) else 1
    )
    os._exit(number)


@contextmanager
def loader_advice(workers: int) -> Iterator[None]:
    """
    workers   DATA.WORKERS
    raises    LoaderError where a process that loads images is lost inside, instead of torch's own errors
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError, MemoryError) as error:
        meaning = meaning_of(error)
        if meaning is None:
            raise
        if hasattr(signal, "SIGCHLD"):  # torch's handler raises its error anew, wherever the program then is
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = lines[-1 if "Original Traceback" in str(error) else 0]  # a worker's own words come last
        raise LoaderError(f"loading images failed ({reason}): {meaning.format(workers=workers)}") from None


def meaning_of(error: Exception) -> str | None:
    """Why a loader failed, or None where the error is not of one."""
    text = str(error)
    number = getattr(error, "errno", None)  # which an error of a worker has lost on its way
    if number in BY_NUMBER and number != errno.ENOSPC and getattr(error, "filename", None) is None:
        return BY_NUMBER[number]
    died = isinstance(error, (EOFError, ConnectionError)) or "DataLoader worker (pid" in text
    if died:
        code = exit_code(error)
        if code > 0:
            return BY_NUMBER.get(code, UNKNOWN)
        text += f" signal: {signal.Signals(-code).name}" if code else ""
    found = next((meaning for words, meaning in BY_WORDS.items() if re.search(words, text)), None)
    if died:
        return found or UNKNOWN
    of_a_loader = re.search(r"in DataLoader worker process|in pin memory thread|ancdata|</torch_", text)
    return found if of_a_loader else None


def exit_code(error: Exception) -> int:
    """With which a loader's process ended, negative for a signal; 0 where that cannot be known."""
    told = re.search(r"with exit code (\d+)", str(error))
    if told:
        return int(told[1])
    for frame, _ in traceback.walk_tb(error.__traceback__):  # torch's iterator is among them
        for worker in getattr(frame.f_locals.get("self"), "_workers", ()):
            if worker.exitcode:
                return worker.exitcode
    return 0
