"""scripts/methods_table.py: what each method is and costs, from one run."""

import json
import re

import pytest
from programs import run
from thin import all_thin


@pytest.mark.parametrize("method, paper", [
    ("agw", "Ye et al., TPAMI 2021"), pytest.param("pmt", "Lu et al., AAAI 2023", marks=pytest.mark.long),
])
def test_a_line_of_the_table(method, paper, tmp_path):
    if method == "pmt":
        pytest.importorskip("timm")
    words = ["scripts/methods_table.py", "--quick", "--configs", f"configs/sysu_{method}.yaml", "--output", tmp_path]
    with all_thin():
        run(*words, "--device", "cpu")
        before = (tmp_path / "methods.md").read_text()
        costs = json.loads((tmp_path / f"sysu_{method}.json").read_text())
        run(*words, "--device", "cpu")  # what was measured is kept
    assert (tmp_path / "methods.md").read_text() == before
    head, _, line, *_ = before.splitlines()
    cells = dict(zip(*([cell.strip() for cell in row.strip("|").split("|")] for row in (head, line))))
    assert cells["Method"] == method.upper() and cells["Paper"] == paper
    assert cells["Command"] == f"`python train.py --config configs/sysu_{method}.yaml`"
    assert re.fullmatch(r"\d+\.\d M", cells["Parameters"]) and float(cells["GMACs"]) > 0
    times = costs["method"]["seconds"] / costs["plain"]["seconds"]
    assert float(cells["Step / plain"]) == pytest.approx(times, abs=0.01)
    per_operation = times * costs["plain"]["operations"] / costs["method"]["operations"]
    assert float(cells["per operation"]) == pytest.approx(per_operation, abs=0.01)
    assert re.search(r"Steps of 4 images in each stream, float32, on ", before)


def test_without_steps_it_says_what_each_method_is(tmp_path):
    with all_thin():
        run("scripts/methods_table.py", "--no-steps", "--configs", "configs/sysu_base.yaml", "--output", tmp_path)
    head = (tmp_path / "methods.md").read_text().splitlines()[0]
    assert head == "| Method | Paper | Command | Parameters | GMACs |" and not [*tmp_path.glob("*.json")]


def test_a_step_that_cannot_be_measured_says_why(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ArithmeticError("no step today")

    with all_thin(), monkeypatch.context() as patch:
        patch.setattr("assembly.recipe.build_loss", broken)
        done = run("scripts/methods_table.py", "--quick", "--configs", "configs/sysu_base.yaml", "--device", "cpu",
                   "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert "the step of method --config configs/sysu_base.yaml" in done.stderr
    assert "could not be measured: ArithmeticError: no step today" in done.stderr
