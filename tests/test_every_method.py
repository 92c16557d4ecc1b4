"""Each method's small config through every program: training, test, tables, costs, pictures, search.

Its network is thin: what is done with it is the same.
"""

import csv
import json

import benchmark_training
import pytest
import torch
from PIL import Image
from programs import run as program
from shared import METHODS, SMALL, copy_of

from configs.load import is_read, load_config

SAMPLED = ("quickstart_base", "quickstart_cmfn")  # the plainest and the one of most parts

pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def run(method, trained):
    """The folder of a trained and tested run, for reading."""
    return trained(method)


@pytest.fixture
def copy(run, tmp_path):
    """The same to write to."""
    return copy_of(run, tmp_path / "copy")


@pytest.fixture
def sampled(method, whole):
    """For what is one code for all methods: by default two of them, with --all each."""
    if method not in SAMPLED and not whole:
        pytest.skip("with --all")


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_it_is_trained_and_tested(run, method):
    entries = results_of(run)["results"]
    assert {entry["protocol"] for entry in entries} == {f"synthetic/{s}/single-shot/random" for s in ("all", "indoor")}
    assert [*dict.fromkeys(entry["weighting"] for entry in entries)] == METHODS[method].weightings
    for name in ("last.pth", "curves.png", "cmc.png", "distances.png", "report.html"):
        assert (run / name).stat().st_size > 1000, name
    assert f"<h1>{METHODS[method].title} on synthetic" in (run / "report.html").read_text()


@pytest.mark.usefixtures("sampled")
def test_a_compressed_embedding_is_tested(copy, method):
    program("test.py", "--checkpoint", copy, "EMBEDDING.DIM", "4", drawn=False)
    assert results_of(copy)["results"][0]["weighting"] == f"{METHODS[method].weightings[0]}, PCA 4"


def test_its_row_of_the_comparison_table(run, method, tmp_path):
    """Of figures as a complete SYSU-MM01 would give them."""
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
    assert [row["method"] for row in rows] == [METHODS[method].title] * len(METHODS[method].weightings)
    for row, weighting in zip(rows, METHODS[method].weightings):
        assert f"weighting {weighting}" in row["note"]
        assert ("MODEL.BACKBONE resnet18" in row["note"]) == is_read("MODEL.BACKBONE", saved["config"]["MODEL"]["NAME"])
        assert ("MODEL.NON_LOCAL none" in row["note"]) == (method == "quickstart_base")


@pytest.mark.usefixtures("sampled")
def test_its_ablation(run, method, shared_data, tmp_path):
    """The full variant is the recipe, so what is there of it is kept; of the baseline it is AGW, which is trained."""
    is_recipe = method != "quickstart_base"
    if is_recipe:
        copy_of(run, tmp_path / "full" / "seed-0")
    done = program("scripts/ablation.py", "--config", f"configs/{method}.yaml", "--variants", "full", "--seeds", "0",
                   "--output", tmp_path, *SMALL, "DATA.ROOT", shared_data, drawn=False)
    assert done.stdout.count("the training was complete already") == is_recipe
    text = (tmp_path / "ablation.md").read_text()
    assert "full)" in text and f"weighting {METHODS[method].weightings[0]}." in text


@pytest.mark.usefixtures("sampled")
def test_its_line_among_the_methods_and_its_costs(run, method, shared_data, tmp_path):
    copy_of(run, tmp_path / method / "seed0")
    program("scripts/compare_methods.py", "--configs", f"configs/{method}.yaml", "--reference", method, "--seeds", "0",
            "--rounds", "1", "--output", tmp_path, *SMALL, "DATA.ROOT", shared_data, drawn=False)
    content, = json.loads((tmp_path / "comparison.json").read_text())["methods"]
    assert content["cells"]["Config"] == method and f"step / {method}" in content["cells"]
    assert content["cells"]["Embedding"].startswith(METHODS[method].weightings[0])
    assert content["cost"]["images"] == METHODS[method].showings * 2 * 2  # showings, identities, images of each
    assert content["cost"]["operations"] > 1e7
    # No peak: this process had its memory before. tests/test_compare_methods.py looks at that of one of its own.


@pytest.mark.parametrize("setting", ["float32", "float32+recompute"])
def test_its_steps_are_timed(method, setting):
    small = ["--quick", "--steps", "1", "--images", "2", "--device", "cpu"]
    options = benchmark_training.parse(["--config", f"configs/{method}.yaml", *small])
    result = benchmark_training.measure("method", setting, options)
    assert all(seconds >= 0 for seconds in result["seconds"].values()) and result["seconds"]["backward"] > 0
    title = benchmark_training.name_of("method", benchmark_training.configuration(setting, options))
    assert title == METHODS[method].title


def test_its_pictures(run, method, tmp_path):
    pytest.importorskip("sklearn")
    done = program("scripts/visualize.py", run, "--top", "3", "--map-images", "2", "--output", tmp_path)
    absent = "has no HCE, no window attention, no spatial attention"
    assert (absent in done.stdout) == (method != "quickstart_cmfn")
    for name in ("ranking", "attention", "map"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 100


def test_a_search(run, shared_data, tmp_path):
    program("scripts/search.py", "--checkpoint", run, "--gallery", shared_data / "cam1",
            "--query", shared_data / "cam3", "--output", tmp_path, "--top", "2")
    with open(tmp_path / "ranking.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"] * len({row["query"] for row in rows})
    assert all(-1 <= float(row["score"]) <= 1 for row in rows)


def test_its_export(run, method, tmp_path, whole):
    """By default a trained run of one method; tests/test_export.py has all methods, formats and modalities."""
    if method != "quickstart_agw" and not whole:
        pytest.skip("with --all")
    program("scripts/export.py", "--checkpoint", run, "--format", "torchscript", "--output",
            tmp_path / "network.ts")
    cfg = load_config(run / "config.yaml")
    network = torch.jit.load(tmp_path / "network.ts")
    images = torch.zeros(2, 3, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, dtype=torch.uint8)
    assert network(images, torch.tensor([False, True])).isfinite().all()


def test_its_model_card(run, method, tmp_path):
    program("scripts/model_card.py", run, "--output", tmp_path / "card.md")
    card = (tmp_path / "card.md").read_text()
    assert card.startswith(f"# Model card: {METHODS[method].title} on synthetic") and "$" not in card
