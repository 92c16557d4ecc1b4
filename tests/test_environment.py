"""The shell scripts' virtual environment, in the states that interruptions, moves and the caller's settings leave; and
matplotlib, in those that its installation and its settings can be in.

Interpreters are stubs: `-m venv` makes a folder with a stub in it, `-m pip` writes a line of its log.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import run_apart

import utils.reporting
from utils.reporting import drawing, report, sheets

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import installed

STUB = """#!/bin/sh
case "$*" in
"-m venv "*)
    test ! -e "$LOG.no-venv" || { echo "ensurepip is not available"; exit 1; }
    echo "$@" >> "$LOG"
    if test "$4" = --clear; then rm -rf "$3"/*; fi
    mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"
    cp "$0" "$3/bin/python"
    touch "$3/pyvenv.cfg" "$3/bin/pip"
    echo "VIRTUAL_ENV=$(cd "$3" && pwd)" > "$3/bin/activate" ;;
"-m pip --version") test -e "$(dirname "$0")/pip" ;;
"-m pip install"*)
    echo "pip user=$PIP_USER target=$PIP_TARGET index=$PIP_INDEX_URL home=$PYTHONHOME" >> "$LOG"
    rm -f "$LOG.missing"
    test ! -e "$LOG.slow" || sleep 0.3
    if test -e "$LOG.pip"; then cat "$LOG.pip" >&2; exit 1; fi ;;
*installed.py*) test ! -e "$LOG.missing" ;;
"-c "*realpath*) test -e "$(dirname "$0")/../pyvenv.cfg" ;;
"-c "*version_info*) test "$(dirname "$(dirname "$0")")" = "$OTHER" && echo 3.12 || echo 3.11 ;;
esac
"""
SCRIPT = """#!/usr/bin/env bash
set -euo pipefail
unset CDPATH
cd "$(dirname "$(readlink -f "$0" || echo "$0")")/.."
source scripts/environment.sh requirements.txt
echo "== ready: $("$VENV/bin/python" -c "")"
"""


class Place:
    """A repository with a name that has a space, an interpreter for it, and what its scripts called."""

    def __init__(self, folder: Path):
        self.repository, self.log = folder / "a repository", folder / "log"
        (self.repository / "scripts").mkdir(parents=True)
        for name in ("environment.sh", "installed.py"):
            shutil.copy(ROOT / "scripts" / name, self.repository / "scripts")
        (self.repository / "requirements.txt").write_text("torch\n")
        self.script = self.repository / "scripts" / "some.sh"
        self.script.write_text(SCRIPT)
        self.python = folder / "bin" / "python3"
        self.python.parent.mkdir()
        self.python.write_text(STUB)
        self.python.chmod(0o755)
        self.venv = self.repository / ".venv"
        self.environment = {"PATH": f"{self.python.parent}:{os.defpath}", "LOG": str(self.log)}  # not even a HOME

    def start(self, script=None, **variables) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(script or self.script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.python.parent, env=self.environment | {name: str(value) for name, value in variables.items()},
        )

    def run(self, script=None, **variables) -> tuple[str, str, int]:
        started = self.start(script, **variables)
        return *started.communicate(), started.returncode

    def calls(self) -> list[str]:
        """What was called since this was asked last: venv, clear (venv anew) and pip."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return ["clear" if "--clear" in line else "venv" if "-m venv" in line else "pip" for line in lines]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def ready(place):
    assert place.run()[1:] == ("", 0) and place.calls() == ["venv", "pip"]
    return place


def test_an_environment_is_made_once(ready):
    assert ready.run() == ("== ready: \n", "", 0) and ready.calls() == []
    (ready.repository / "requirements.txt").write_text("torch\nnumpy\n")
    assert ready.run()[1:] == ("", 0) and ready.calls() == ["pip"]


def without_python(venv):
    (venv / "bin" / "python").unlink()


def with_a_dangling_python(venv):
    without_python(venv)
    (venv / "bin" / "python").symlink_to("/usr/bin/python-of-last-year")


def without_configuration(venv):  # its Python is the system's now
    (venv / "pyvenv.cfg").unlink()
    (venv / "installed-requirements.txt").unlink()


def without_pip(venv):
    (venv / "bin" / "pip").unlink()
    (venv / "installed-requirements.txt").unlink()


def only_begun(venv):
    shutil.rmtree(venv)
    (venv / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (venv / "lib64").symlink_to("lib")


def without_python_and_configuration(venv):
    without_python(venv)
    (venv / "pyvenv.cfg").unlink()


@pytest.mark.parametrize("half_made", [
    without_python, with_a_dangling_python, without_configuration, without_python_and_configuration, without_pip,
    only_begun,
])
def test_a_half_made_environment_is_made_anew(half_made, ready):
    half_made(ready.venv)
    said, errors, status = ready.run()
    assert (errors, status) == ("", 0) and ready.calls() == ["clear", "pip"]
    assert said.startswith("== .venv is half made") and said.endswith("== ready: \n")


def test_an_environment_whose_python_only_lacks_a_library_is_kept(ready):
    python = ready.venv / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'error while loading shared libraries: libpython3.11.so' >&2\nexit 127\n")
    errors, status = ready.run()[1:]
    assert status == 1 and errors.startswith("error: .venv/bin/python doesn't start (error while loading shared lib")
    assert errors.count("\n") == 1 and ready.calls() == [] and python.exists()


def test_a_real_environment_is_asked_the_right_questions(place):
    """Its Python is real; only its pip isn't."""
    base, packages = Path(sys.base_prefix, "bin"), place.venv / "lib" / f"python3.{sys.version_info[1]}/site-packages"
    (packages / "pip").mkdir(parents=True)
    (packages / "pip" / "__main__.py").write_text(
        f"import sys; 'install' in sys.argv and print('pip', file=open({str(place.log)!r}, 'a'))"
    )
    (place.venv / "bin").mkdir()
    (place.venv / "bin" / "python").symlink_to(base / "python3")
    (place.venv / "pyvenv.cfg").write_text(f"home = {base}\ninclude-system-site-packages = false\n")
    (place.repository / "requirements.txt").write_text("# nothing\n")
    assert place.run() == (
        "== installing requirements.txt (PyTorch is large: this takes minutes)\n== ready: \n", "", 0
    )
    assert place.calls() == ["pip"] and place.run() == ("== ready: \n", "", 0) and place.calls() == []
    without_configuration(place.venv)
    (place.venv / "bin" / "activate").touch()
    assert place.run()[1:] == ("", 0) and place.calls() == ["clear", "pip"]


def test_an_empty_folder_is_filled(place):
    place.venv.mkdir()
    assert place.run()[1:] == ("", 0) and place.calls() == ["venv", "pip"]


def test_packages_that_are_missing_are_installed_again(ready):
    ready.log.with_name("log.missing").touch()
    assert ready.run()[1:] == ("", 0) and ready.calls() == ["pip"]


def test_an_interrupted_installation_goes_on(ready):
    (ready.venv / "installed-requirements.txt").write_text("")
    assert ready.run()[1:] == ("", 0) and ready.calls() == ["pip"]


@pytest.mark.parametrize("content", ["photograph.jpg", "lib/python3.11/os.py", "bin/tool"])
def test_a_folder_with_other_things_is_never_removed(content, place):
    path = place.venv / content
    path.parent.mkdir(parents=True)
    path.write_text("kept")
    _, errors, status = place.run()
    assert status == 1 and errors == (
        "error: .venv is no virtual environment, and holds other things; set VENV to another folder.\n"
    )
    assert path.read_text() == "kept" and place.calls() == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_file_in_the_place_of_the_environment_is_an_error(make, place):
    make(place.venv)
    _, errors, status = place.run()
    assert status == 1 and errors.count("\n") == 1
    assert errors.startswith("error: .venv is no folder that can be written")


def test_settings_of_the_caller_do_not_redirect_the_installation(place):
    assert place.run(
        PIP_USER=1, PIP_TARGET="elsewhere", PIP_INDEX_URL="mirror", PYTHONHOME="/nowhere", PYTHONPATH="/nowhere",
        CDPATH="/:/usr", VIRTUAL_ENV="/nowhere", POSIXLY_CORRECT=1, LC_ALL="nonsense", TERM="dumb", COLUMNS=1,
    )[2] == 0
    assert "pip user=0 target= index=mirror home=\n" in place.log.read_text()


def test_scripts_run_through_links_and_for_an_environment_elsewhere(place):
    link = place.python.parent / "run it"
    link.symlink_to(place.script)
    _, errors, status = place.run(link, VENV=place.repository.parent / "an environment")
    assert (errors, status) == ("", 0) and not place.venv.exists()
    assert place.run(link, VENV="kept/in here")[1:] == ("", 0) and (place.repository / "kept" / "in here").is_dir()


def test_closed_streams_end_nothing(place):
    command = f"bash '{place.script}' <&- >&-"
    done = run_apart("sh", "-c", command, env=place.environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and place.calls() == ["venv", "pip"]


@pytest.mark.parametrize("of_pip, said", [
    (("WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError: name resolution'\n"
      "ERROR: No matching distribution found for torch"), "the package index cannot be reached"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
     "[Errno 28] No space left on device"),
    ("", "pip ended with status 1"),
])
def test_a_failed_installation_is_one_line_and_is_tried_again(of_pip, said, place):
    place.log.with_name("log.pip").write_text(of_pip)
    errors, status = place.run()[1:]
    assert status == 1 and errors.startswith("error: requirements.txt is not installed: ") and errors.count("\n") == 1
    assert said in errors and place.calls() == ["venv", "pip"]
    place.log.with_name("log.pip").unlink()
    assert place.run()[1:] == ("", 0) and place.calls() == ["pip"]


def test_what_is_wrong_with_the_interpreter_is_one_line(place):
    errors, status = place.run(PYTHON="python-of-another-machine")[1:]
    assert status == 1 and "Python 3.10 or newer is needed; python-of-another-machine is " in errors
    assert errors.count("\n") == 1
    place.log.with_name("log.no-venv").touch()
    errors, status = place.run()[1:]
    assert status == 1 and "-m venv failed (ensurepip is not available)" in errors and "python3-venv" in errors


def test_another_python_and_another_place_are_told(ready):
    said, errors, status = ready.run(PYTHON="python3", OTHER=".venv")
    assert (errors, status) == ("", 0) and "== .venv is not of python3" in said
    moved = ready.repository.rename(ready.repository.with_name("moved"))
    said, errors, status = ready.run(moved / "scripts" / "some.sh")
    assert (errors, status) == ("", 0) and "== .venv was moved" in said and ready.calls() == []


@pytest.mark.skipif(shutil.which("flock") is None, reason="two at once need flock")
def test_of_two_scripts_at_once_one_installs(place):
    place.log.with_name("log.slow").touch()
    ended = [started.communicate() + (started.returncode,) for started in [place.start() for _ in range(2)]]
    assert [end[1:] for end in ended] == [("", 0)] * 2 and place.calls() == ["venv", "pip"]
    assert sum("== waiting for another script" in said for said, *_ in ended) == 1


def package(packages: Path, name: str, record: str | None) -> Path:
    info = packages / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    if record is not None:
        (info / "RECORD").write_text(record)
    return info


def test_packages_that_were_cut_off_are_found_and_forgotten(tmp_path, monkeypatch):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "whole").mkdir(parents=True)
    (packages / "whole" / "__init__.py").touch()
    package(packages, "whole", 'whole/__init__.py,sha256=x,0\n"whole/a, b.so",,\n')
    monkeypatch.syspath_prepend(packages)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# comment\nwhole>=1,<2\n")
    assert installed.main(str(tmp_path), str(requirements))
    broken = {package(packages, "unlisted", None), package(packages, "gone", "gone/__init__.py,,\n")}
    assert set(installed.cut_off(packages)) == broken and not installed.main(str(tmp_path), str(requirements))
    installed.main(str(tmp_path), "--forget")
    assert installed.cut_off(packages) == [] and installed.main(str(tmp_path), str(requirements))
    requirements.write_text("whole\nunlisted\n")
    assert installed.missing(requirements) == ["unlisted"]


def test_this_environment_is_whole():
    assert installed.missing(ROOT / "requirements.txt") == []


@pytest.mark.parametrize("script", ["reproduce_sysu", "reproduce_regdb", "reproduce_llcm"])
def test_a_missing_data_folder_is_said_before_anything_is_installed(script, tmp_path):
    environment = {"PATH": os.defpath, "VENV": str(tmp_path / "venv"), "CDPATH": "/"}
    done = run_apart("bash", f"scripts/{script}.sh", "no/such/folder", env=environment)
    assert done.returncode == 1 and done.stderr.startswith("error: there is no folder no/such/folder in ")
    assert done.stdout == "" and not (tmp_path / "venv").exists()


def test_settings_of_matplotlib_change_no_picture(tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nbackend: nonsense\n")
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils.reporting.drawing import plain_matplotlib; "
        "matplotlib = plain_matplotlib(); print(matplotlib.get_backend(), matplotlib.rcParams['font.size'])"
    )
    environment = {"PATH": os.defpath, "MPLBACKEND": "nonsense", "MPLCONFIGDIR": "/proc/nowhere"}
    done = run_apart(sys.executable, "-c", program, folder=tmp_path, env=environment)
    assert done.stdout.lower() == "agg 10.0\n", done.stderr


def broken():
    raise RuntimeError("numpy.core.multiarray failed to import\nand more lines")


def test_a_broken_matplotlib_is_one_sentence(monkeypatch):
    monkeypatch.setattr(drawing, "plain_matplotlib", broken)
    monkeypatch.delitem(sys.modules, "utils.reporting.plots", raising=False)
    monkeypatch.delattr(utils.reporting, "plots", raising=False)
    with pytest.raises(report.ReportError, match=r"cannot be used here \(numpy.core.multiarray failed to import\);"):
        report.import_plots()


def test_a_sheet_does_without_matplotlib(monkeypatch):
    monkeypatch.setattr(sheets, "plain_matplotlib", broken)
    sheets.font_of.cache_clear()
    try:
        cell = sheets.Cell(Image.new("RGB", (64, 128), "white"), "a caption")
        drawn = sheets.sheet([("a row", [cell])], title="title")
        assert np.asarray(drawn).min() < 50
    finally:
        sheets.font_of.cache_clear()
