"""scripts/corruptions.py: only visible images of the trials are corrupted, and what was computed is kept."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from programs import run
from shared import copy_of
from torch import nn
from torch.nn import functional as F
from trees import llcm_tree, regdb_tree

from assembly import corruption_tables
from assembly.corrupted_search import CorruptedSearch, needed_rows
from configs.load import load_config
from data import corrupted, corruptions
from data.dataset import open_benchmark
from data.pixels import open_image
from data.records import Protocol, Trial
from utils.evaluation.evaluator import EvaluationError
from utils.reporting import plots

pytestmark = pytest.mark.usefixtures("thin")
PROTOCOL = "synthetic/indoor/single-shot/random"


class Pixels(nn.Module):
    """A network whose embedding is a coarse image."""

    weightings, only_across = {"neck": (1.0,)}, ""

    def embed(self, images, infrared, flip=True):
        return F.normalize(F.adaptive_avg_pool2d(images, (4, 2)).flatten(1))

    def column_scale(self, weighting):
        return torch.ones(24)


def search_of(benchmark, name, rerank="none", trained_on=""):
    cfg = load_config("configs/quickstart_base.yaml", [
        "TEST.WEIGHTINGS", "['neck']", "TEST.RERANK", rerank, "DATA.WORKERS", "0", "DATA.HEIGHT", "32",
        "DATA.WIDTH", "16",
    ])
    return CorruptedSearch(
        Pixels(), benchmark.test, [benchmark.protocol(name)], cfg, torch.device("cpu"), directions={},
        trained_on=trained_on,
    )


def black(path, height, width, resize):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("data, make", [("regdb", regdb_tree), ("llcm", llcm_tree)])
def test_the_visible_side_alone_is_read_anew(data, make, tmp_path):
    make(tmp_path)
    benchmark, sides = open_benchmark(data, tmp_path), set()
    for name in benchmark.default_protocols():
        search, seen = search_of(benchmark, name), []
        again = search.corrupted(lambda path, *size, seen=seen: seen.append(path) or open_image(path, *size))
        assert again == search.clean()
        trials = benchmark.protocol(name).trials
        side = "gallery" if benchmark.test[trials[0].query[0]].infrared else "query"
        assert sorted(seen) == sorted({benchmark.test[row].path for t in trials for row in getattr(t, side)})
        search.scores = lambda features, versions: features
        moved = (search.corrupted(black) != search.clean()).any(dim=1).nonzero().flatten().tolist()
        assert moved == search.visible.tolist() and not any(benchmark.test[row].infrared for row in moved)
        sides.add(side)
    assert sides == {"query", "gallery"}


def test_figures_name_their_reranking_and_where_the_network_was_trained(shared_data):
    benchmark = open_benchmark("synthetic", shared_data)
    search = search_of(benchmark, PROTOCOL, "aim", trained_on="llcm")
    run = {"order": "native", "repeat": 0, "results": search.corrupted(black)}
    lines = corruption_tables.summary_rows(corruption_tables.summary(search.clean(), [run]))[1]
    assert lines[0][0] == f"{PROTOCOL} (trained on llcm)" and "aim (k1 2, k2 2)" in lines[0]


def test_a_gallerys_images_alone_are_embedded(shared_data):
    """Of SYSU-MM01's visible test images, some are in no trial's gallery."""
    benchmark = open_benchmark("synthetic", shared_data)
    protocol = benchmark.protocol(PROTOCOL)
    search = search_of(benchmark, PROTOCOL)
    gallery = np.unique(np.concatenate([trial.gallery for trial in protocol.trials]))
    assert search.visible.tolist() == gallery.tolist() and len(gallery) < sum(not r.infrared for r in benchmark.test)


def test_channels_for_mser_are_those_of_the_corrupted_image(shared_data):
    search = search_of(open_benchmark("synthetic", shared_data), PROTOCOL, rerank="mser")
    features, versions = search.embedded(search.visible, black)
    wanted = features[search.visible].expand(3, -1, -1)  # black in each channel
    torch.testing.assert_close(versions.features[:, search.visible], wanted)
    assert search.corrupted(black)[0]["rerank"] == "mser"


@pytest.mark.parametrize("query, gallery", [([0, 1], [2]), ([0, 3], [4]), ([3], [4, 5])])
def test_a_protocol_within_a_modality_is_refused(query, gallery):
    trial = Trial(query=np.array(query), gallery=np.array(gallery))
    protocol = Protocol("toy/all", (trial,), "identities", np.full(6, -1), np.zeros(6, dtype=np.int64))
    with pytest.raises(EvaluationError, match="toy/all doesn't search one modality for the other, and corruptions are"):
        needed_rows([protocol], np.arange(6) >= 3)


# The program


@pytest.fixture
def two(monkeypatch):
    """Two corruptions in the place of twenty, in each module that names them."""
    few = {name: corruptions.CORRUPTIONS[name] for name in ("contrast", "pixelate")}
    for module in (corruptions, corrupted, corruption_tables):
        monkeypatch.setattr(module, "CORRUPTIONS", few)


@pytest.fixture
def place(trained, tmp_path):
    return copy_of(trained("quickstart_base"), tmp_path / "run")


def corrupt(place, *arguments, check=True):
    return run("scripts/corruptions.py", "--checkpoint", place, "--protocol", PROTOCOL, *arguments, drawn=False,
               check=check)


def test_clean_figures_are_those_of_the_test_and_a_stopped_run_goes_on(place, two):
    done = corrupt(place, "--repeats", 2, "--grid", "--order", "resized")
    saved = json.loads((place / "corruptions.json").read_text())
    tested = json.loads((place / "results.json").read_text())
    for key in ("data", "checkpoint", "versions", "parameters"):
        assert saved[key] == tested[key]
    clean = {r["weighting"]: r["mean"] for r in tested["results"] if r["protocol"] == PROTOCOL}
    assert {r["weighting"]: r["mean"] for r in saved["results"]} == clean
    assert [(run.get("repeat"), run.get("corruption"), run.get("severity")) for run in saved["runs"]] == [
        (0, None, None), (1, None, None), *((None, name, s) for name in ("contrast", "pixelate") for s in range(1, 6)),
    ]
    means = [run["results"][0]["mean"]["mAP"] for run in saved["runs"][:2]]
    assert saved["summary"][0]["order"] == "resized" and saved["summary"][0]["repeats"] == 2
    assert saved["summary"][0]["mean"]["mAP"] == pytest.approx(np.mean(means))
    assert saved["summary"][0]["std"]["mAP"] == pytest.approx(np.std(means))
    page = (place / "corruptions.md").read_text()
    assert "| synthetic/indoor/single-shot/random | resized | no | neck | no | 2 |" in page
    assert re.search(r"\| contrast \| \d", page) and "clean" in page
    lines = list(csv.DictReader((place / "corruptions-grid.csv").open()))
    assert len(lines) == 10 * 2 and lines[0]["order"] == "resized" and lines[-1]["corruption"] == "pixelate"
    assert (place / "corruptions-resized.png").exists()

    whole = json.dumps(saved)
    (place / "corruptions.json").write_text(json.dumps(saved | {"runs": saved["runs"][:-1]}))
    again = corrupt(place, "--repeats", 2, "--grid", "--order", "resized", "TEST.BATCH", 2)
    assert json.loads((place / "corruptions.json").read_text())["runs"] == json.loads(whole)["runs"]
    assert (done.stdout.count("\nresized, "), again.stdout.count("\nresized, ")) == (12, 1)

    other = corrupt(place, "--repeats", 1, "--order", "native", "--seed", 1)  # of another seed, nothing is kept
    assert other.stdout.count("\nnative, repeat 0: ") == 1
    saved = json.loads((place / "corruptions.json").read_text())
    assert [(run["order"], run["repeat"]) for run in saved["runs"]] == [("native", 0)]
    assert saved["corruptions"]["seed"] == 1


def test_what_cannot_be_written_is_said_before_all_else(place):
    (place / "corruptions.md").mkdir()
    done = corrupt(place, "--output", place / "corruptions.txt", check=False)
    assert "it is the JSON file, beside which the tables lie: name it .json" in done.stderr
    done = corrupt(place, check=False)
    assert "corruptions.md cannot be written (it is a folder" in done.stderr and "clean" not in done.stdout


def test_a_heat_map_has_a_number_in_each_measured_cell():
    figure = plots.heat_maps([("a", np.array([[1.0, np.nan], [30.0, 2.0]]))], ["x", "y"], ["1", "2"], "title")
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1.0", "2.0", "30.0"]
    assert plots.png(figure).startswith(b"\x89PNG")
