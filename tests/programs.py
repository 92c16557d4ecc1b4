"""The programs, run inside the test's own process: an interpreter of their own would import torch for seconds."""

import contextlib
import io
import logging
import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import experiment  # noqa: E402


@dataclass
class Done:
    """How a program ended, as a shell sees it."""

    returncode: int
    stdout: str
    stderr: str


def run(program: str, *arguments, check: bool = True, environment: dict | None = None, folder: Path = ROOT) -> Done:
    """`python program arguments`; the programs that it starts run here too.

    program       relative to the repository, such as train.py
    check         fail the test where the program fails
    environment   variables set for it
    folder        the current one for it
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        patch.chdir(folder)
        for name, value in (environment or {}).items():
            patch.setenv(name, str(value))
        patch.setattr(experiment, "run", started_here)
        status = status_of(program, *arguments)
    done = Done(status, stdout.getvalue(), stderr.getvalue())
    assert not check or not status, done.stdout + done.stderr
    return done


def started_here(program: str, *arguments) -> None:
    """Takes the place of `experiment.run`, which starts a program of its own."""
    status = status_of(program, *arguments)
    if status:
        raise experiment.ExperimentError(f"{program} ended with status {status}")


def status_of(program: str, *arguments) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *map(str, arguments)])
        patch.setattr(sys, "path", [*sys.path])
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
                return 1
            return end.code or 0
        except BaseException:  # what an interpreter of its own would print and end with
            traceback.print_exc()
            return 1
        finally:
            close_log()
    return 0


def close_log() -> None:
    log = logging.getLogger("cmfn")
    for handler in [*log.handlers]:
        log.removeHandler(handler)
        handler.close()
