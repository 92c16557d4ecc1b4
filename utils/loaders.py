"""Processes that load images: how they start, and what it means when one of them dies."""

import errno
import multiprocessing.queues
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from utils.stop import leave_stopping_to_the_main_process

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
    r"DefaultCPUAllocator|MemoryError|Cannot allocate memory|signal: Killed": MEMORY,
    r"Bus error|No space left|shared memory|</torch_": SHARED_MEMORY,
}


class LoaderError(RuntimeError):
    """A process that loads images died, or could not be started; the message says why and what to change."""


def start_worker(worker: int) -> None:
    """For DataLoader's `worker_init_fn`."""
    leave_stopping_to_the_main_process(worker)
    # Python's own handler prints a trace and goes on, while the main process waits for the lost batch for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end_worker)


def end_worker(error: Exception, _item) -> None:
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LoaderError(f"loading images failed ({reason}): {meaning.format(workers=workers)}") from None


def meaning_of(error: Exception) -> str | None:
    """Why a loader failed, or None where the error is not of one."""
    text = str(error)
    if isinstance(error, OSError):
        if error.errno in BY_NUMBER and error.filename is None and error.errno != errno.ENOSPC:
            return BY_NUMBER[error.errno]
    elif status := re.search(r"DataLoader worker .* with exit code (\d+)", text):
        return BY_NUMBER.get(int(status[1]), UNKNOWN)
    found = [meaning for words, meaning in BY_WORDS.items() if re.search(words, text)]
    if "DataLoader worker" in text and "Original Traceback" not in text:  # one has died
        return (found or [UNKNOWN])[0]
    of_a_loader = "in DataLoader worker process" in text or "in pin memory thread" in text or "ancdata" in text
    return found[0] if found and of_a_loader or "</torch_" in text else None
