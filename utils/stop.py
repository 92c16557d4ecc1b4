"""How a program ends: as it should, stopped by a signal, or with one line that says what is wrong.

Nothing is imported here that takes time, so that a program can ask for `stop_in_one_line` before it imports torch.
"""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, final

from utils.output import safe_streams

ROOT = Path(__file__).resolve().parent.parent

STOPPING = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SIGPIPE = 13  # of systems that have it


class Stopped(BaseException):
    """A signal ended the program's work; no `except Exception` is to hold it up.

    by   the signal's name; None where another process of a training was asked to stop
    """

    def __init__(self, by: str | None):
        super().__init__(by)
        self.by = by


def stop_status(by: str | None) -> int:
    """With which a stopped program ends, as shells have it: what comes after it in a script is not to run."""
    return 128 + signal.Signals[by or "SIGTERM"]


def listen(handler: Callable[[int, Any], None]) -> dict:
    """Give every stopping signal this handler, but for a hang-up that is ignored (nohup); returns the older ones."""
    heard = [s for s in STOPPING if s.name != "SIGHUP" or signal.getsignal(s) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def stop_in_one_line() -> None:
    """From here on, a signal ends the process at once, with a line. For the time in which a program's modules are
    imported; `fail_clearly` takes over. A library that is missing gets a line, too, until the end.
    """
    def end(number: int, _frame: object) -> None:
        os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
        os._exit(128 + number)

    listen(end)
    sys.excepthook = name_missing_library


def name_missing_library(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What is printed of an uncaught error: the fix where a library is missing, as in a shell without .venv."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    ours = any((ROOT / path).exists() for path in (name, f"{name}.py"))
    if issubclass(kind, ModuleNotFoundError) and not ours:
        print(
            f"error: {sys.executable} has no module {name}. Once in a shell: source {ROOT}/.venv/bin/activate "
            "(bash scripts/quickstart.sh makes it); in an environment of your own: pip install -r requirements.txt",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)


@final
class StopRequest:
    """Turns a stopping signal into a flag that the training loop looks at; the second signal stops at once."""

    def __init__(self) -> None:
        self.by: str | None = None
        self.previous: dict = {}

    def __enter__(self) -> "StopRequest":
        self.previous = listen(self.note)
        return self

    def note(self, number: int, _frame: object) -> None:
        self.by = signal.Signals(number).name
        signal.signal(number, self.previous[number])

    def __bool__(self) -> bool:
        return self.by is not None

    def __exit__(self, *_: object) -> None:
        restore(self.previous)


def fail_clearly(main: Callable[[], None], expected: tuple[type[Exception], ...]) -> None:
    """Run a program's main; an expected error ends it with one message and exit status 1, without a stack trace.

    A signal ends it with one line and the status that shells give it. Where nobody reads its output any more
    (`| head`), it ends without a word, with the status of a broken pipe.
    """
    safe_streams()
    previous = listen(raise_stopped)
    try:
        main()
        sys.stdout.flush()
    except BaseException as error:
        # A loader that its frames hold ends its workers now: they ignore the SIGTERM of the interpreter's exit.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        if isinstance(error, (KeyboardInterrupt, Stopped)):
            by = getattr(error, "by", "SIGINT")
            print(f"stopped by {by}", file=sys.stderr)
            sys.exit(stop_status(by))
        if isinstance(error, BrokenPipeError) and not output_is_taken():
            sys.exit(128 + SIGPIPE)
        if isinstance(error, OSError) and not isinstance(error, expected):
            where = error.filename or ("" if output_is_taken() else "standard output")
            sys.exit(f"error: {where}{': ' if where else ''}{error.strerror or error}")
        if not isinstance(error, expected):
            raise
        message = str(error)
        if "Original Traceback" in message:  # came through a loader's worker: its own words stand after the trace
            message = message.rsplit("Error: ", 1)[-1]
        sys.exit(f"error: {message.strip()}")
    finally:
        restore(previous)


def raise_stopped(number: int, _frame: object) -> None:
    raise Stopped(signal.Signals(number).name)


def output_is_taken() -> bool:
    """Whether standard output takes another line; where it doesn't, being closed or full, the rest is thrown away."""
    try:
        print(flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again when it ends
        return False
    return True
