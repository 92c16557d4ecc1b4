"""The rooms of the house: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {  # what each may import of the others
    "common": set(),
    "data": {"common"}, "models": {"common"}, "losses": {"common"}, "utils": {"common"},
    "configs": {"common", "data", "losses", "models"},
    "assembly": {"common", "configs", "data", "losses", "models", "utils"},
}
ALL = {*ROOMS, "scripts", "train", "test"}


def imported(file):
    """The rooms and programs that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        found |= {name.partition(".")[0] for name in names}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_those_below_it_alone(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        assert imported(file) & ALL - {room} <= ROOMS[room], file


def test_programs_and_scripts_import_none_of_each_other():
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    programs = {"train", "test"} | {script.stem for script in scripts}
    for file in [ROOT / "train.py", ROOT / "test.py", *scripts]:
        assert not imported(file) & programs, file


def test_no_room_asks_for_a_methods_name():
    """But for the lists of methods, and what belongs to one: its files, its literal form, its ablation."""
    methods = {"cmfn", "agw", "caj", "deen", "mpanet"}
    own = {"models/build.py", "losses/build.py", "scripts/ablation.py", "scripts/benchmark_training.py"}
    for room in ("assembly", "common", "configs", "data", "losses", "models", "utils", "scripts"):
        for file in (ROOT / room).rglob("*.py"):
            if str(file.relative_to(ROOT)) in own:
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    words = {x.value for x in ast.walk(node) if isinstance(getattr(x, "value", None), str)}
                    assert not words & methods, f"{file}:{node.lineno}"
