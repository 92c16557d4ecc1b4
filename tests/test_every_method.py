"""Each method's small config, as shipped, through every program: training, test, tables, costs, pictures, search."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark_training  # noqa: E402
import experiment  # noqa: E402

from configs.load import load_config  # noqa: E402
from data.synthetic import write_synthetic  # noqa: E402

METHODS = {  # file of configs/ -> (name in tables, weightings of its embedding, showings of a pair of images)
    "quickstart_base": ("Two-stream baseline", ["neck", "pooled"], 2),
    "quickstart_agw": ("AGW", ["neck", "pooled"], 2),
    "quickstart_caj": ("CAJ", ["neck", "pooled"], 3),
    "quickstart_deen": ("DEEN", ["equal", "neck"], 2),
    "quickstart": ("CMFN", ["equal", "neck"], 2),
}
SMALL = [
    "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "2", "SOLVER.BASE_LR", "0.001", "DEVICE", "cpu",
    "DATA.WORKERS", "0",
]


def program(name, *arguments):
    """A program run here, as imports take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "run", program)  # by which scripts start others
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, seed=3, train_identities=4, test_identities=3, images_per_camera=2, height=64, width=32)
    return root


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def run(method, data, tmp_path_factory):
    """The folder of a trained and tested run."""
    folder = tmp_path_factory.mktemp(method) / "run"
    program("train.py", "--config", f"configs/{method}.yaml", *SMALL, "DATA.ROOT", data, "OUTPUT", folder)
    program("test.py", "--checkpoint", folder)
    return folder


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_it_is_trained_and_tested(run, method):
    _, weightings, _ = METHODS[method]
    entries = results_of(run)["results"]
    assert {entry["protocol"] for entry in entries} == {f"synthetic/{s}/single-shot/random" for s in ("all", "indoor")}
    assert [*dict.fromkeys(entry["weighting"] for entry in entries)] == weightings
    for name in ("last.pth", "curves.png", "cmc.png", "distances.png", "report.html"):
        assert (run / name).stat().st_size > 1000, name
    assert f"<h1>{METHODS[method][0]} on synthetic" in (run / "report.html").read_text()


def test_a_compressed_embedding_is_tested(run, method, tmp_path):
    program("test.py", "--checkpoint", run, "--output", tmp_path / "results.json", "EMBEDDING.DIM", "4")
    assert results_of(tmp_path)["results"][0]["weighting"] == f"{METHODS[method][1][0]}, PCA 4"


def test_its_row_of_the_comparison_table(run, method, tmp_path):
    """Of figures as a complete SYSU-MM01 would give them."""
    title, weightings, _ = METHODS[method]
    saved = results_of(run)
    saved["data"]["name"] = "sysu"
    for entry in saved["results"]:
        entry["protocol"] = entry["protocol"].replace("synthetic", "sysu")
        for trial in entry["trials"]:
            trial["valid_queries"] = 3803 if "/all/" in entry["protocol"] else 2208
    (tmp_path / "sysu.json").write_text(json.dumps(saved))
    program("scripts/reproduce_table.py", tmp_path / "sysu.json", "--output", tmp_path)
    with open(tmp_path / "sysu_mm01.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "measured here"]
    assert [row["method"] for row in rows] == [title] * 2
    for row, weighting in zip(rows, weightings):
        assert f"weighting {weighting}" in row["note"] and "MODEL.BACKBONE resnet18" in row["note"]
        assert ("MODEL.NON_LOCAL none" in row["note"]) == (method == "quickstart_base")


def test_its_ablation(method, data, tmp_path):
    program("scripts/ablation.py", "--config", f"configs/{method}.yaml", "--variants", "full", "--seeds", "0",
            "--output", tmp_path, *SMALL, "DATA.ROOT", data)
    text = (tmp_path / "ablation.md").read_text()
    assert "full)" in text and f"weighting {METHODS[method][1][0]}." in text


def test_its_line_among_the_methods_and_its_costs(method, data, tmp_path):
    program("scripts/compare_methods.py", "--configs", f"configs/{method}.yaml", "--reference", method, "--seeds", "0",
            "--rounds", "1", "--output", tmp_path, *SMALL, "DATA.ROOT", data)
    content, = json.loads((tmp_path / "comparison.json").read_text())["methods"]
    assert content["cells"]["Config"] == method and f"step / {method}" in content["cells"]
    assert content["cells"]["Embedding"].startswith(METHODS[method][1][0])
    assert content["cost"]["images"] == METHODS[method][2] * 2 * 2  # showings, identities, images of each
    assert content["cost"]["operations"] > 1e8 and content["cost"]["peak"] > 0


@pytest.mark.parametrize("setting", ["float32", "float32+recompute"])
def test_its_steps_are_timed(method, setting):
    options = benchmark_training.parse(["--config", f"configs/{method}.yaml", "--quick", "--device", "cpu"])
    result = benchmark_training.measure("method", setting, options)
    assert all(seconds >= 0 for seconds in result["seconds"].values()) and result["seconds"]["backward"] > 0
    title = benchmark_training.name_of("method", benchmark_training.configuration(setting, options))
    assert title == METHODS[method][0]


def test_its_pictures(run, method, capsys):
    pytest.importorskip("sklearn")
    program("scripts/visualize.py", run, "--top", "3", "--map-images", "2")
    absent = "has no HCE, no window attention, no spatial attention"
    assert (absent in capsys.readouterr().out) == (method != "quickstart")
    for name in ("ranking", "attention", "map"):
        with Image.open(run / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 100


def test_a_search(run, data, tmp_path):
    program("scripts/search.py", "--checkpoint", run, "--gallery", data / "cam1", "--query", data / "cam3",
            "--output", tmp_path, "--top", "2")
    with open(tmp_path / "ranking.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"] * len({row["query"] for row in rows})
    assert all(-1 <= float(row["score"]) <= 1 for row in rows)


def test_its_export(run, method):
    """All formats and modalities: tests/test_export.py."""
    program("scripts/export.py", "--checkpoint", run, "--format", "torchscript")
    cfg = load_config(run / "config.yaml")
    network = torch.jit.load(run / f"{cfg.MODEL.NAME}-both-{METHODS[method][1][0]}.ts")
    images = torch.zeros(2, 3, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, dtype=torch.uint8)
    assert network(images, torch.tensor([False, True])).isfinite().all()


def test_its_model_card(run, method):
    program("scripts/model_card.py", run)
    card = (run / "model_card.md").read_text()
    assert card.startswith(f"# Model card: {METHODS[method][0]} on synthetic") and "$" not in card
