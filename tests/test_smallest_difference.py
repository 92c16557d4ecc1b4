"""The simulation that says when a gain in a table is noise: its metrics are the protocols', equal networks differ by
nothing that people drawn again don't explain."""

import importlib.util
from pathlib import Path

import pytest
import torch
from programs import run
from torch.nn import functional as F

from utils.evaluation.metrics import rank_queries

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "smallest_difference.py"
spec = importlib.util.spec_from_file_location("smallest_difference", SCRIPT)
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)

SMALL = simulation.Size(people=20, queries=4, cameras=2)


def draw(size, number, own=0.25, apart=0.5):
    generator = torch.Generator().manual_seed(1)
    return [simulation.world(size, apart, own, generator) for _ in range(number)]


def test_figures_are_those_of_the_protocols():
    asked, shown = (F.normalize(torch.randn(9, n, 8), dim=2) for n in (5, 3))
    hidden = torch.tensor([True, True, False, False, False])
    found = simulation.ranked(asked, shown, hidden)
    person = torch.arange(9)
    ignored = hidden.repeat(9)[:, None] & (torch.arange(27) % 3 == 0)
    figures = rank_queries(
        asked.flatten(0, 1) @ shown.flatten(0, 1).T, person.repeat_interleave(5), person.repeat_interleave(3), ignored
    )
    assert found[..., 0].flatten().tolist() == (figures.rank == 1).float().tolist()
    torch.testing.assert_close(found[..., 1].flatten().double(), figures.ap, rtol=0, atol=1e-6)


def test_networks_without_anything_of_their_own_are_one():
    both, = draw(SMALL, 1, own=0.0)
    assert torch.equal(both[0], both[1]) and both.shape == (2, 10, 20, 4, 2)
    other, = draw(SMALL, 1)
    assert not torch.equal(other[0], other[1])
    of_splits, = draw(simulation.Size(people=6, queries=3, cameras=3, pool=12), 1, own=0.0)
    assert torch.equal(of_splits[0], of_splits[1])


def test_ten_galleries_of_the_same_people_are_no_ten_experiments():
    found = simulation.summary(draw(SMALL, 40), SMALL)[0]
    assert found["t"] > 0.2 and found["people"] < 0.15  # 5 % is what both should be
    assert found["seen"] / found["noise"] == pytest.approx(2.80 / 1.96)


def test_rank1_is_as_asked_for():
    generator = torch.Generator().manual_seed(2)
    apart = simulation.distance_for(SMALL, 0.7, 0.25, generator)
    reached = torch.stack([simulation.world(SMALL, apart, 0.25, generator)[..., 0].mean() for _ in range(8)]).mean()
    assert reached.item() == pytest.approx(0.7, abs=0.06)


def test_the_program_prints_a_table_and_refuses_what_is_no_share(monkeypatch):
    for option, value, words in (
        ("--own", "2", "--own is 2.0; it is a share, from 0 to 1"),
        ("--levels", "1.5", "is no list of fractions from 0.05 to 0.99, such as 0.5,0.9"),
    ):
        done = run("scripts/smallest_difference.py", option, value, check=False)
        assert done.returncode and words in done.stderr
    monkeypatch.setitem(simulation.SIZES, "regdb", simulation.Size(people=6, queries=2, cameras=2, pool=12))
    monkeypatch.setattr("sys.argv", ["x", "--sets", "regdb", "--levels", "0.5", "--worlds", "2", "--device", "cpu"])
    printed = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
    simulation.main()
    assert printed[-1].splitlines()[-1].startswith("| regdb | mAP |") and "| - |" in printed[-1]
