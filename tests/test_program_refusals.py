"""What programs and scripts refuse, each in one line; what needs more than a few lines stands with what it is of."""

import json
from types import SimpleNamespace

import average_splits
import benchmark_training
import pytest
import search
import torch
from programs import ROOT, run
from reproduce_table import measured_rows, other_options, read_published
from trees import sysu_tree, text

from assembly import experiment
from configs.load import load_config
from utils.reporting.results import METRICS, ResultsError, read_results
from utils.training.checkpoint import save_checkpoint


def refused(program, *arguments) -> str:
    """The one line with which a program ends."""
    done = run(program, *arguments, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_training_needs_a_configuration():
    done = run("train.py", check=False)
    assert done.returncode == 2 and "the following arguments are required: --config" in done.stderr


def test_a_configuration_is_named_once_and_not_left_out(tmp_path):
    message = "--checkpoint brings its own configuration; leave --config out and set KEY VALUE pairs"
    for program, *options in (("test.py",), ("scripts/export.py", "--format", "pt2", "--output", tmp_path / "a")):
        assert message in refused(program, "--checkpoint", tmp_path, "--config", "a.yaml", *options)
    assert "--authors-checkpoint and --untrained need --config" in refused("test.py", "--untrained")
    message = "error: --authors-checkpoint needs --config"
    assert message in refused("scripts/export.py", "--authors-checkpoint", tmp_path / "a.t", "--format", "torchscript")


def test_another_networks_checkpoint_is_not_the_authors(tmp_path):
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "a.t")
    said = refused("test.py", "--authors-checkpoint", tmp_path / "a.t", "--config", "configs/quickstart_cmfn.yaml")
    assert "a.t is no checkpoint of the authors' but a state dict of" in said and "has no classifier.weight" in said


def test_a_training_goes_on_with_its_own_data_alone(tmp_path):
    root, folder = sysu_tree(tmp_path / "data", images=1), tmp_path / "run"
    options = ["DATA.ROOT", str(root), "OUTPUT", str(folder), "DEVICE", "cpu", "SOLVER.IDENTITIES", "2"]
    cfg = load_config("configs/quickstart_cmfn.yaml", options)
    folder.mkdir()
    save_checkpoint(folder / "last.pth", {"config": cfg.dump(), "data": "another fingerprint"})
    said = refused("train.py", "--config", "configs/quickstart_cmfn.yaml", "--resume", *options)
    assert f"last.pth was trained on other data than {root} now holds" in said


# scripts


def results(path, config=None, name="regdb", protocol="regdb/1/visible-to-thermal", weighting="equal", **changes):
    """A results file of one trial, with changes of its one result."""
    trial = {"valid_queries": 9} | dict.fromkeys(METRICS, 0.5)
    result = {"protocol": protocol, "flip": True, "weighting": weighting, "rerank": False, "trials": [trial]} | changes
    saved = {"data": {"name": name, "fingerprint": "f"}, "results": [result], "config": config or {}}
    path.write_text(json.dumps(saved))
    return path


def test_splits_are_averaged_of_regdb_and_of_one_kind(tmp_path):
    with pytest.raises(ResultsError, match="holds figures of sysu, which has no splits to average"):
        average_splits.read_split(results(tmp_path / "a.json", name="sysu"))
    with pytest.raises(ResultsError, match="a.json does not say which split it is of; run test.py again"):
        average_splits.read_split(results(tmp_path / "a.json"))
    split = {}
    for number in average_splits.SPLITS:
        config, weighting = {"DATA": {"SPLIT": number}}, "neck" if number == 7 else "equal"
        path = results(tmp_path / f"{number}.json", config, protocol=f"regdb/{number}/x", weighting=weighting)
        split[number] = (path, average_splits.read_split(path)[1])
    message = "7.json and .*1.json hold different protocols or weightings"
    with pytest.raises(ResultsError, match=message):
        average_splits.average(split)


@pytest.mark.parametrize("change, message", [
    (lambda saved: saved["data"].update(name=3), "data.name is no text"),
    (lambda saved: saved.update(results=[]), "it has no result"),
    (lambda saved: saved["results"].extend(saved["results"]), "two of its results have the same protocol"),
    (lambda saved: saved["results"][0].update(trials=[]), "regdb/1/visible-to-thermal has no trial"),
])
def test_results_of_another_form(tmp_path, change, message):
    path = results(tmp_path / "a.json")
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))
    with pytest.raises(ResultsError, match=f"a.json is no results file of test.py: {message}"):
        read_results(path)


def test_a_table_of_published_figures(tmp_path):
    table = tmp_path / "published.csv"
    with pytest.raises(ResultsError, match="cannot be read .*; name another table by --published"):
        read_published(table)
    table.write_text("method,label\n")
    with pytest.raises(ResultsError, match="must have the columns method,label,.* and at least one row"):
        read_published(table)


def test_measured_rows(tmp_path):
    path = results(tmp_path / "a.json", name="sysu", protocol="sysu/all/multi-shot/random")
    message = "a.json has neither sysu/all/single.* nor sysu/indoor/single.*; it has sysu/all/multi"
    with pytest.raises(ResultsError, match=message):
        measured_rows(path, "random", None)
    with pytest.raises(ResultsError, match="a.json is of another version: .* sets SOLVER.OLD, which is not"):
        other_options(path, {"MODEL": {"NAME": "cmfn"}, "SOLVER": {"OLD": 1}})


def test_what_can_be_compared(tmp_path):
    a, b = results(tmp_path / "a.json"), results(tmp_path / "b.json", weighting="neck")
    said = refused("scripts/compare_results.py", a, b)
    assert "A and B have no result in common; the nearest differ in weighting (equal and neck)" in said
    queries = {"rows": [0], "rank": [1], "ap": [1.0], "inp": [1.0]}
    trial = {"valid_queries": 1, "queries": queries} | dict.fromkeys(METRICS, 1.0)
    a = results(tmp_path / "a.json", trials=[trial])
    said = refused("scripts/compare_results.py", a, a, "--unit", "queries")
    assert "regdb/1/visible-to-thermal has 1 of queries; nothing can be drawn again" in said


SCRIPTS = {
    "a variant's weighting": (
        "ablation --config configs/quickstart_cmfn.yaml --weighting pooled --output {place}/out",
        "--weighting is 'pooled'; the test is by equal, neck",
    ),
    "half a pair": (
        "ablation --config configs/quickstart_cmfn.yaml --output {place}/out SEED",
        "error: options come in pairs, KEY VALUE; 'SEED' stands alone",
    ),
    "compressed to more numbers": (
        "benchmark_search --folder {place} --rows 5 --numbers 9 --dims 6",
        "--dims asks for 6 numbers; --rows and --numbers allow 5 at most",
    ),
    "no data set": (
        "contact_sheet --root {place} --output {place}/a.png",
        "exp/test_id.txt; write the set with: python -m data.synthetic --root FOLDER",
    ),
    "no list of SYSU-MM01": (
        "make_sysu_stub --split {place} --output {place}/out",
        "it comes with SYSU-MM01 and its evaluation code",
    ),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_scripts(what, tmp_path):
    words, message = SCRIPTS[what]
    program, *arguments = words.format(place=tmp_path).split()
    assert message in refused(f"scripts/{program}.py", *arguments)
    assert [*tmp_path.iterdir()] == []


def test_a_list_of_the_embedded_data_set_that_is_none(tmp_path):
    text(tmp_path / "exp" / "test_id.txt", "one")
    said = refused("scripts/contact_sheet.py", "--root", tmp_path, "--output", tmp_path / "a.png")
    assert "test_id.txt, line 1: 'one' is not an identity number" in said


@pytest.mark.parametrize("program", [
    path.relative_to(ROOT) for path in (*ROOT.glob("t*.py"), *(ROOT / "scripts").glob("*.py"))
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
], ids=str)
def test_every_program_explains_itself(program):
    assert run(program, "--help").stdout.startswith(f"usage: {program.name} [-h]")


@pytest.mark.parametrize("words, message", [
    ("ablation --config a.yaml --seeds 0,x", "argument --seeds: 0,x is no list of seeds, such as 0,1,2"),
    ("compare_methods --configs a.yaml --rounds 0", "argument --rounds: 0 is not a whole number of 1 at least"),
    ("cost --config a --reference a --output a --rounds x", "argument --rounds: x is not a whole number of 1 at least"),
    ("search --checkpoint a --gallery a --query a --output a --top 0", "argument --top: 0 is not a whole number of 1"),
    ("contact_sheet --root a --output a --height 1", "argument --height: 1 is not a whole number of 2 at least"),
    ("prepare --config a --workers -1", "argument --workers: -1 is not a whole number of 1 at least"),
    ("benchmark_search --dims 4 -4", "argument --dims: -4 is not a whole number of 1 at least"),
    ("benchmark_training --steps 0", "argument --steps: 0 is not a whole number of 1 at least"),
    ("check_device --minutes 0", "argument --minutes: 0 is not a number above 0"),
    ("check_device --minutes soon", "argument --minutes: soon is not a number above 0"),
    ("benchmark_evaluator --trials 0", "argument --trials: 0 is not a whole number of 1 at least"),
])
def test_a_number_on_the_command_line(words, message):
    program, *arguments = words.split()
    done = run(f"scripts/{program}.py", *arguments, check=False)
    assert done.returncode == 2 and message in done.stderr


def test_a_program_that_fails_in_an_experiment(monkeypatch, capsys):
    monkeypatch.setattr(experiment.subprocess, "run", lambda command, check: SimpleNamespace(returncode=3))
    message = "train.py ended with status 3, for the reason above; once that is fixed, this script goes on from there"
    with pytest.raises(experiment.ExperimentError, match=message):
        experiment.run("train.py", "--resume")
    assert capsys.readouterr().out == "$ python train.py --resume\n"


def test_a_benchmark_whose_loss_is_not_finite(monkeypatch):
    training = SimpleNamespace(warm_up=0, step=lambda: [1.0], loss=torch.tensor(torch.nan))
    monkeypatch.setattr(benchmark_training, "Training", lambda *_: training)
    with pytest.raises(FloatingPointError, match="the loss in bfloat16 became nan"):
        benchmark_training.measure("method", "bfloat16", SimpleNamespace(steps=1))


def test_an_image_that_is_gone_after_the_search(tmp_path):
    with pytest.raises(search.SearchError, match="there is no image .*gone.jpg.*; was it moved since it was searched"):
        search.draw_ranking([(tmp_path / "gone.jpg", [])], tmp_path, 64, 32)
