"""The programs, run inside the test's own process: an interpreter of their own would import torch for seconds."""

import base64
import contextlib
import io
import logging
import os
import random
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.stop import STOPPING

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))


BLANK = base64.b64decode(  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


@dataclass
class Done:
    """How a program ended, as a shell sees it."""

    returncode: int
    stdout: str
    stderr: str


def run(
    program, *arguments, check: bool = True, environment: dict | None = None, folder: Path = ROOT, drawn: bool = True
) -> Done:
    """`python program arguments`; the Python programs that it starts run here too.

    program       relative to the repository, such as train.py; or -m and, as the first argument, a module
    check         fail the test where the program fails
    environment   variables set for it
    folder        the current one for it
    drawn         false for a test that looks at no curves: blank pictures take their place, in no time
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        patch.chdir(folder)
        for name, value in (environment or {}).items():
            patch.setenv(name, str(value))
        patch.setattr(subprocess, "run", started_here)
        if not drawn:
            draw_nothing(patch)
        status = status_of(program, *arguments)
    done = Done(status, stdout.getvalue(), stderr.getvalue())
    assert not check or not status, done.stdout + done.stderr
    return done


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Blank pictures take the place of curves and points."""
    for kind in ("png", "svg"):
        patch.setattr(f"utils.reporting.plots.{kind}", lambda figure: BLANK)
    patch.setattr("utils.reporting.plots.name_points", lambda *arguments: None)


def command(program, *arguments) -> list[str]:
    """The same for an interpreter of its own, with the network of the fixture `thin`."""
    return [sys.executable, str(ROOT / "tests" / "thin.py"), str(ROOT / program), *map(str, arguments)]


def run_apart(*words, folder: Path = ROOT, **options) -> subprocess.CompletedProcess:
    """A command in a process of its own: how it ended, and what it printed, as text.

    folder    the current one for it
    options   others of subprocess.run
    """
    return subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, check=False, **options)


start = subprocess.run


def started_here(args, **options):
    """Takes the place of `subprocess.run` for the repository's programs; other commands are started."""
    if args[0] != sys.executable or not str(args[1]).endswith(".py"):
        return start(args, **options)
    with contextlib.ExitStack() as streams:
        stdout = stderr = None
        if options.get("capture_output"):
            stdout = streams.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stderr = streams.enter_context(contextlib.redirect_stderr(io.StringIO()))
        status = status_of(*args[1:])
    return Done(status, stdout and stdout.getvalue(), stderr and stderr.getvalue())


def status_of(program, *arguments) -> int:
    """The exit status of a program; what it prints goes to sys.stdout and sys.stderr."""
    with pytest.MonkeyPatch.context() as patch, left_as_found():
        patch.setattr(sys, "argv", [str(program), *map(str, arguments)])
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "excepthook", sys.excepthook)
        with End() as end:
            if program == "-m":
                sys.argv.pop(0)
                patch.delitem(sys.modules, arguments[0], raising=False)  # of which runpy would warn
                runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / program), run_name="__main__")
    return end.status


class End:
    """Of a program: what an interpreter of its own would print, and end with."""

    status = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, SystemExit) and isinstance(error.code, int | None):
            self.status = int(error.code or 0) & 0xFF
        elif isinstance(error, SystemExit):
            print(error.code, file=sys.stderr)
            self.status = 1
        elif isinstance(error, Exception):
            traceback.print_exception(error)
            self.status = 1
        return isinstance(error, SystemExit | Exception)


@contextlib.contextmanager
def left_as_found() -> Iterator[None]:
    """Undoes what a program changes of its process, which is the tests' process here."""
    log, environment = logging.getLogger("cmfn"), dict(os.environ)
    handlers, disabled, level = [*log.handlers], log.disabled, log.level
    signals = {number: signal.getsignal(number) for number in STOPPING}
    deterministic = torch.are_deterministic_algorithms_enabled()
    fastest, threads, dtype = torch.backends.cudnn.benchmark, torch.get_num_threads(), torch.get_default_dtype()
    flash, lean = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    in_tf32, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    log.handlers = []
    try:
        with warnings.catch_warnings():
            warnings.showwarning = to_stderr
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers, log.disabled, log.level = handlers, disabled, level
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in signals.items():
            signal.signal(number, handler)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = fastest, in_tf32
        torch.set_float32_matmul_precision(products)
        torch.backends.cuda.enable_flash_sdp(flash)
        torch.backends.cuda.enable_mem_efficient_sdp(lean)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def to_stderr(message, category, filename, lineno, file=None, line=None) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))  # pytest would collect it
