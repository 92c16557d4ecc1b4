"""What each room refuses, in its own words; refusals that need more than a few lines stand with what they are of."""

import json
import os
import sys
from types import SimpleNamespace

import average_splits
import benchmark_training
import numpy as np
import pytest
import search
import torch
from PIL import Image
from programs import ROOT, run
from reproduce_table import measured_rows, other_options, read_published
from torch import nn
from trees import llcm_tree, sysu_tree, text

from assembly import experiment
from common.checksum import read_sealed_json
from common.options import Section, options_of
from common.weights import WeightsFileError, dtype, read_weights_file, save_sealed
from configs.load import ConfigError, from_dump, load_config
from data import files as data_files
from data.llcm import LLCM
from data.pixels import in_8_bits
from data.records import DataError, LayoutError, PartAbsent
from data.synthetic import write_synthetic
from data.sysu import SYSU
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.parts.backbone import Backbone, PretrainedError, pretrained_weights
from utils import lock, output
from utils.evaluation import evaluator
from utils.reporting import report, sheets
from utils.reporting.results import METRICS, ResultsError, read_results
from utils.retrieval import compress, index, nearest
from utils.training import loaders
from utils.training.checkpoint import (
    CheckpointError,
    load_weights,
    read_checkpoint,
    read_own_checkpoint,
    save_checkpoint,
)
from utils.training.distributed import TORCHRUN, Ranks, RanksError


def refused(program, *arguments) -> str:
    """The one line with which a program ends."""
    done = run(program, *arguments, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# configs


def test_configs():
    with pytest.raises(ConfigError, match="the checkpoint's configuration is damaged: it is no text"):
        from_dump(None)
    with pytest.raises(TypeError, match=r"A.B is 3; declare it by option\(default, explanation, ...\)"):
        options_of(Section(A=Section(B=3)))


# data


def lines(path, content):
    text(path, content)
    return path


DATA = {
    "a root's bytes": (
        lambda p: data_files.absolute(os.fsdecode(b"/caf\xe9")), DataError,
        r"DATA.ROOT is '/caf\\udce9', which is not UTF-8: rename that folder",
    ),
    "no folder": (
        lambda p: data_files.require_folder(p / "gone", "cam1", "Ask its owners."), LayoutError,
        r"there is no folder .*gone, where cam1 should be\. Ask its owners\. Then set DATA.ROOT",
    ),
    "a file for a folder": (
        lambda p: data_files.names_in(lines(p / "exp", "")), DataError,
        "exp should be a readable folder, but: Not a directory",
    ),
    "a folder for an image": (
        lambda p: (p / "1.jpg").mkdir() or data_files.list_images(p), DataError,
        "1.jpg should be an image, and is a folder or a broken link",
    ),
    "a file for a camera": (
        lambda p: lines(p / "cam1", "") and data_files.numbered(p, "cam"), DataError,
        "cam1 should be a readable folder of images, and is a file or a broken link",
    ),
    "a list alone": (
        lambda p: data_files.read_indices(p, lines(p / "list", "a/1.jpg 0\na/2.jpg 1")), PartAbsent,
        "none of the images that .*list list is there",
    ),
    "no test images of LLCM": (
        lambda p: lines(p / "idx/test_id.txt", "7") and LLCM(p), LayoutError,
        "has no folder of test images: neither test_vis nor test_nir",
    ),
    "empty folders of LLCM": (
        lambda p: [lines(p / "idx/test_id.txt", "7"), *((p / f"test_{m}").mkdir() for m in ("vis", "nir")), LLCM(p)],
        LayoutError, "none of the identities in .*test_id.txt has an image in .*/test_",
    ),
    "a person of LLCM": (
        lambda p: lines(llcm_tree(p, images=1) / "idx" / "test_id.txt", "7,9") and LLCM(p), DataError,
        r"test_id.txt lists identity 9, which has no image in test_\*",
    ),
    "nobody of SYSU-MM01": (
        lambda p: [lines(p / f"exp/{part}_id.txt", str(len(part))) for part in ("train", "val", "test")] and SYSU(p),
        LayoutError, "none of the identities in .*train_id.txt has an image in .*/cam",
    ),
    "no query": (
        lambda p: SYSU(sysu_tree(p, images=1, cameras=(2, 3))).protocol("sysu/all/single-shot/random"), DataError,
        "trial 0 of sysu/all/single-shot/random has no valid query: .*; is the copy complete",
    ),
    "grey values": (
        lambda p: in_8_bits(np.array([[0, np.inf]])), ValueError, "some of its grey values are not finite",
    ),
    "the size of the embedded data set": (
        lambda p: write_synthetic(p / "new", height=8), DataError,
        "the embedded data set's height is 8; choose 32 to 1024",
    ),
    "a link for the embedded data set": (
        lambda p: (p / "link").symlink_to("gone") or write_synthetic(p / "link"), DataError,
        "link is a link or a mounted disk, which cannot be replaced: name a new folder",
    ),
    "another embedded data set": (
        lambda p: lines(p / "synthetic.json", "{}") and write_synthetic(p), DataError,
        "holds another embedded data set .*seed: None there, 0 asked for.*: choose another folder, or remove it",
    ),
}


@pytest.mark.filterwarnings("ignore:the galleries of")
@pytest.mark.parametrize("what", DATA)
def test_data(what, tmp_path):
    provoke, error, message = DATA[what]
    with pytest.raises(error, match=message):
        provoke(tmp_path)


# files


def written(path, change):
    with open(path, "w+b") as file:
        save_sealed({"a": torch.zeros(9)}, file)
    path.write_bytes(change(path.read_bytes()))
    return path


def test_files(tmp_path):
    (tmp_path / "sealed.json").write_text('{"a": 1, "crc32": 0}')
    with pytest.raises(ValueError, match="its checksum differs"):
        read_sealed_json(tmp_path / "sealed.json")
    with pytest.raises(WeightsFileError, match="is a folder, not a file"):
        read_weights_file(tmp_path)
    with pytest.raises(WeightsFileError, match=r"cannot be read \(File name too long\)"):
        read_weights_file(tmp_path / ("a" * 999))
    path = tmp_path / "a.pth"
    with pytest.raises(WeightsFileError, match="a.pth is .*: the end of the zip archive is missing. Copy it again"):
        read_weights_file(written(path, lambda content: content[:-9]))
    with pytest.raises(WeightsFileError, match="a.pth is damaged: its checksum differs from that of what was written"):
        read_weights_file(written(path, lambda content: content.replace(b"archive", b"arkhive", 1)))
    with pytest.raises(ValueError, match="arrays of O8 are not read"):
        dtype("O8").array(b"")


# models


def test_models(tmp_path):
    with pytest.raises(ValueError, match="MODEL.BACKBONE is 'vgg'; known are resnet18, "):
        Backbone("vgg")
    with pytest.raises(ValueError, match="MODEL.STAGES is 2; the network has 4 stages, or 3 for RegDB"):
        Backbone("resnet18", stages=2)
    with pytest.raises(PretrainedError, match="MODEL.PRETRAINED cannot be read: .* is a folder, not a file"):
        pretrained_weights("resnet18", str(tmp_path))
    network = SimpleNamespace(authors_names=(), state_dict=dict, authors_unused=list)
    with pytest.raises(KeyError, match="x.y has no counterpart in the authors' network"):
        authors_name("x.y", network)
    message = (
        r"this is not the authors' checkpoint of the network that the configuration describes but a state dict of 1 "
        r"tensor \(a\):\n  unexpected: a"
    )
    with pytest.raises(AuthorsCheckpointError, match=message):
        from_authors({"a": torch.zeros(1)}, network)


# utils


def saved_list(path):
    torch.save([1], path)
    return path


def too_large_a_jpeg(path):
    sheets.save(Image.new("L", (70_000, 1)), path / "sheet.jpg")


def opened(folder):
    with index.open_index(folder, {"numbers": 1, "dtype": "float32"}):
        pass


UTILS = {
    "a checkpoint's folder": (
        lambda p: save_checkpoint(p / "gone" / "a.pth", {}), CheckpointError,
        "a.pth could not be written .*; there is no older one. Is the disk full",
    ),
    "a list": (lambda p: read_checkpoint(saved_list(p / "a.pth")), CheckpointError, "holds no checkpoint but a list"),
    "another program's checkpoint": (
        lambda p: torch.save({}, p / "a.pth") or read_own_checkpoint(p / "a.pth"), CheckpointError,
        r"was not written by this version of train.py \(format None, not 1\); it is a dict",
    ),
    "another network's weights": (
        lambda p: load_weights(nn.Linear(1, 1), {}, "a.pth"), CheckpointError,
        "a.pth does not fit the network that the configuration describes:\n  missing: weight",
    ),
    "damaged directions": (
        lambda p: compress.load_directions(lines(p / "pca.pth", "x"), {}), CheckpointError,
        "pca.pth is .*. Without pca.pth, the directions are learned again",
    ),
    "no image": (
        lambda p: evaluator.embed_images(None, [], [], "cpu"), evaluator.EvaluationError,
        "a process has no image to embed: start fewer processes than there are images",
    ),
    "an index that is a file": (
        lambda p: opened(lines(p / "index", "")), index.SearchIndexError,
        "the index .* cannot be used .*; choose another with --index",
    ),
    "a file that is no folder": (
        lambda p: output.require_folder(lines(p / "file", "") / "runs"), output.OutputError,
        "runs cannot be written .*file is no folder.; choose another folder",
    ),
    "a report's place": (
        lambda p: report.write(lines(p / "file", "") / "report.html", ""), report.ReportError,
        "report.html cannot be written .*; make it writable, or free its disk",
    ),
    "a large sheet": (
        too_large_a_jpeg, sheets.SheetError, "sheet.jpg cannot be written .*; choose another format, or fewer images",
    ),
}


@pytest.mark.parametrize("what", UTILS)
def test_utils(what, tmp_path):
    provoke, error, message = UTILS[what]
    with pytest.raises(error, match=message):
        provoke(tmp_path)


def test_a_row_of_an_index_with_a_wrong_bit_is_named(tmp_path):
    settings = {"numbers": 2, "dtype": "float32"}
    with index.open_index(tmp_path, settings) as written:
        written.append([("a.jpg", (1, 1)), ("b.jpg", (1, 1))], np.ones((2, 2)))
    rows = tmp_path / index.EMBEDDINGS
    rows.write_bytes(rows.read_bytes()[:-1] + b"\0")
    with index.open_index(tmp_path, settings) as damaged:
        message = "is damaged: the checksum of row 1 differs from that of what was written"
        with pytest.raises(index.SearchIndexError, match=message):
            damaged.matrix()[:]


@pytest.mark.parametrize("variable, value, message", [
    ("LOCAL_RANK", "first", "the environment has LOCAL_RANK='first', where torchrun sets a number; unset it"),
    ("RANK", "2", "the environment has RANK=2 with WORLD_SIZE=2: ranks count from 0; unset both"),
])
def test_an_environment_that_describes_no_process(monkeypatch, variable, value, message):
    for name in TORCHRUN:
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "0")
    monkeypatch.setenv(variable, value)
    with pytest.raises(RanksError, match=message):
        Ranks.from_environment()


def test_a_lost_loader():
    perhaps = r"loading images failed \(DataLoader worker .*\): perhaps for"
    with pytest.raises(loaders.LoaderError, match=perhaps), loaders.loader_advice(workers=2):
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")


def test_a_folder_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "taken", lambda path: None)
    message = r"another process is at work in .* \(train\); wait for it, stop it, or choose another folder"
    with pytest.raises(lock.LockedError, match=message), lock.only_one(tmp_path, "train"):
        pass


def test_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    message = "FAISS is not installed; install it with: pip install -r requirements-optional.txt"
    with pytest.raises(nearest.FaissMissing, match=message):
        nearest.import_faiss()


def test_a_broken_matplotlib(monkeypatch):
    import utils.reporting

    monkeypatch.delattr(utils.reporting, "plots", raising=False)
    monkeypatch.delitem(sys.modules, "utils.reporting.plots", raising=False)
    monkeypatch.setitem(sys.modules, "utils.reporting.drawing", SimpleNamespace())  # in the place of one that draws
    message = r"matplotlib cannot be used here \(cannot import name .*\); look for a damaged matplotlibrc file"
    with pytest.raises(report.ReportError, match=message):
        report.import_plots()


# The programs


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
