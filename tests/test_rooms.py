"""The rooms of the house: who may import whom."""

import ast
import sys
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
    """The rooms and programs that a file imports; what it runs as a program may use any."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "__name__ == '__main__'")]
    for node in ast.walk(tree):
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


def test_a_signal_ends_every_program_in_one_line_while_it_still_imports():
    """Before anything that isn't Python's own, which takes seconds."""
    scripts = [file for file in (ROOT / "scripts").glob("*.py") if file.name != "installed.py"]  # of an instant
    for file in [ROOT / "train.py", ROOT / "test.py", *scripts]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.If) and "stop_in_one_line" in ast.dump(node):
                break
            slow = isinstance(node, (ast.Import, ast.ImportFrom)) and {
                name.partition(".")[0]
                for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
            } - sys.stdlib_module_names
            assert not slow or node.module == "utils.stop", f"{file}:{node.lineno}"
        else:
            raise AssertionError(f"{file} doesn't ask for stop_in_one_line")


def test_no_room_asks_for_a_methods_name():
    """But for the lists of methods, and what belongs to one: its files, its literal form, its ablation."""
    methods = {"cmfn", "agw", "caj", "deen", "mpanet", "pmt", "dns"}
    own = {"models/build.py", "losses/build.py", "scripts/ablation.py", "scripts/benchmark_training.py"}
    for room in ("assembly", "common", "configs", "data", "losses", "models", "utils", "scripts"):
        for file in (ROOT / room).rglob("*.py"):
            if str(file.relative_to(ROOT)) in own:
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    words = {x.value for x in ast.walk(node) if isinstance(getattr(x, "value", None), str)}
                    assert not words & methods, f"{file}:{node.lineno}"
