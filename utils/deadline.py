"""Work that is given up at a time."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class TimeUp(BaseException):
    """The time is over; no `except Exception` is to hold it up."""


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """What runs inside, in the main thread, is given up at the deadline; on systems without such alarms it is only not
    begun after it.

    deadline   of time.monotonic
    raises     TimeUp
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeUp
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def end(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, left, 5)  # and again: what is raised while an object is deleted gets lost
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
