"""Programs in processes of their own, to be killed and signalled; they start in no time.

Each is forked from one process that has imported what programs import, and that has no threads.
"""

import contextlib
import functools
import multiprocessing
import os
import runpy
import sys
from multiprocessing import forkserver
from pathlib import Path

import torch
from programs import ROOT
from thin import is_thin, thin


@functools.cache
def context():
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["train", "processes"])
    forkserver.ensure_running()  # now, with the signals as they are: a test may ask for processes while some wait
    return forking


class Started:
    """`python program arguments`, running, the first of a process group; with the thin network where that is in place.

    folder        of its output
    environment   variables set for it
    without       a library that is not installed there; one that this process has imported is not yet imported there
    """

    def __init__(
        self, folder: Path, program: str, *arguments, environment: dict | None = None, without: str | None = None
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.outputs = [folder / "stdout", folder / "stderr"]
        words, variables = [program, *map(str, arguments)], {k: str(v) for k, v in (environment or {}).items()}
        self.process = context().Process(target=run_here, args=(words, variables, self.outputs, is_thin(), without))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def finished(self, timeout: float = 120) -> tuple[int, str, str]:
        """Its exit status, what it printed, and its errors."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it is still running"
        return self.process.exitcode, *(output.read_text() for output in self.outputs)


def run_here(
    words: list[str], variables: dict[str, str], outputs: list[Path], is_thin: bool, without: str | None
) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as of a program that a shell starts, on Linux
    if without:
        sys.modules[without] = None
    os.environ.update(variables)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    torch.set_num_threads(1)
    os.chdir(ROOT)
    sys.argv = words
    with thin() if is_thin else contextlib.nullcontext():
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def is_imported(library: str, by: list[str]) -> bool:
    """Whether these programs import a library when they start."""
    process = context().Process(target=exit_with_imported, args=(library, by))
    process.start()
    process.join()
    assert process.exitcode in (0, 1)
    return process.exitcode == 1


def exit_with_imported(library: str, by: list[str]) -> None:
    for program in by:
        runpy.run_path(str(ROOT / program))
    sys.exit(library in sys.modules)
