"""The Dockerfile, as far as it can be checked without building it: what it copies and runs is there."""

import json
import re
import shlex
from pathlib import Path

from programs import run

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def of(instruction):
    return [line.removeprefix(instruction).strip() for line in LINES if line.startswith(f"{instruction} ")]


def test_every_line_is_an_instruction_and_the_first_names_a_python_that_is_supported():
    assert {line.split()[0] for line in LINES} <= {"FROM", "RUN", "WORKDIR", "COPY", "CMD"}
    version, = re.findall(r"^python:3\.(\d+)-", of("FROM")[0])
    assert 10 <= int(version) <= 13


def test_what_is_copied_is_there_and_not_left_out():
    ignored = {line.rstrip("/") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()}
    for line in of("COPY"):
        *sources, _ = shlex.split(line)
        assert all((ROOT / source).exists() and source not in ignored for source in sources), line


def test_what_is_installed_was_copied_before():
    copied = of("COPY")[0].split()
    installing, = (line for line in of("RUN") if "pip install" in line)
    assert re.findall(r"-r (\S+)", installing) == [name for name in copied if name.startswith("requirements")]
    assert LINES.index(f"COPY {of('COPY')[0]}") < LINES.index(f"RUN {installing}")


def test_the_command_is_one_of_the_scripts_with_its_options():
    program, script, *options = json.loads(of("CMD")[0])
    assert program == "python" and (ROOT / script).is_file()
    done = run(script, "--help")
    assert done.returncode == 0 and options[0] in done.stdout
