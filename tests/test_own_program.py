"""The network in somebody's own program: figures of the programs, kinds of images, rankings, names that meet."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs import command, run, run_apart
from trees import write_image

import vireid
from configs.load import ConfigError
from data.dataset import open_benchmark
from data.pixels import open_image
from data.records import DataError
from utils.evaluation.evaluator import EvaluationError, evaluate_protocol
from utils.training.checkpoint import CheckpointError

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = "synthetic/all/single-shot/random"


@pytest.fixture(scope="module")
def net(trained):
    return vireid.load(trained("quickstart_base"), device="cpu")


@pytest.fixture(scope="module")
def records(shared_data):
    return open_benchmark("synthetic", shared_data).test


def embedded(net, records, **options):
    return net.embed([record.path for record in records], infrared=[r.infrared for r in records], **options)


# The programs' figures


@pytest.mark.parametrize("weighting", ["neck", "pooled"])
def test_a_ranking_has_the_figures_of_the_test(trained, shared_data, records, weighting):
    """Rank-1 and mAP of each gallery, computed here from the order alone."""
    folder = trained("quickstart_base")
    saved = json.loads((folder / "results.json").read_text())["results"]
    result, = [r for r in saved if r["protocol"] == PROTOCOL and r["weighting"] == weighting]
    features = embedded(vireid.load(folder, weighting=weighting), records, rows="raw")
    protocol = open_benchmark("synthetic", shared_data).protocol(PROTOCOL)
    who = np.array([record.identity for record in records])
    for trial, figures in zip(protocol.trials, result["trials"]):
        order, _ = vireid.rank(
            features[trial.query], features[trial.gallery], gallery_cameras=protocol.gallery_group[trial.gallery],
            ignores=protocol.query_ignores[trial.query],
        )
        hits, precisions = [], []
        for query, line in zip(trial.query, order):
            right = who[trial.gallery[line[line >= 0]]] == who[query]
            if right.any():
                hits.append(right[0])
                precisions.append((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
        assert len(hits) == figures["valid_queries"]
        assert np.mean(hits) == pytest.approx(figures["rank1"]) and np.mean(precisions) == pytest.approx(figures["mAP"])


@pytest.mark.parametrize("rerank", ["k_reciprocal", "aim"])
def test_a_reranking_is_the_evaluations(net, records, shared_data, rerank):
    features = embedded(net, records, rows="raw")
    protocol = open_benchmark("synthetic", shared_data).protocol(PROTOCOL)
    who = [record.identity for record in records]
    result = evaluate_protocol(torch.from_numpy(features), who, protocol, flip=True, weighting="neck", rerank=rerank)
    trial, figures = protocol.trials[0], result["trials"][0]
    query = np.sort(trial.query)
    order, _ = vireid.rank(
        features[query], features[trial.gallery], gallery_cameras=protocol.gallery_group[trial.gallery],
        ignores=protocol.query_ignores[query], rerank=rerank, top=1,
    )
    hits = [who[trial.gallery[first]] == who[row] for row, (first,) in zip(query, order)]
    assert np.sum(hits) == pytest.approx(figures["rank1"] * figures["valid_queries"])


def test_names_and_scores_are_those_of_a_search(trained, net, shared_data, tmp_path):
    gallery, query = shared_data / "cam1", next((shared_data / "cam3").rglob("*.jpg"))
    run("scripts/search.py", "--checkpoint", trained("quickstart_base"), "--gallery", gallery, "--query", query,
        "--output", tmp_path, "--top", 3)
    paths = sorted(gallery.rglob("*.jpg"))
    order, similarities = vireid.rank(net.embed(query, infrared=True), net.embed(paths, infrared=False), top=3)
    with open(tmp_path / "ranking.csv", newline="") as file:
        found = [(row["image"], float(row["score"])) for row in csv.DictReader(file)]
    assert [name for name, _ in found] == [str(paths[row]) for row in order[0]]
    assert [score for _, score in found] == pytest.approx(similarities[0].tolist(), abs=1e-5)


def test_compression_precision_and_batches(trained, net, records, tmp_path):
    folder = shutil.copytree(trained("quickstart_base"), tmp_path / "run")  # the directions are kept there
    whole = embedded(net, records)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    small = vireid.load(folder, device="cpu", batch=3, options={"EMBEDDING.DIM": 4})
    assert embedded(small, records).shape == (len(records), 4) == (len(records), small.numbers)
    np.testing.assert_allclose(embedded(vireid.load(folder, batch=1, readers=1), records), whole, atol=1e-5)
    half = embedded(vireid.load(folder, precision="bfloat16"), records)
    assert 1e-5 < np.abs(half - whole).max() < 0.1
    assert small.settings["checkpoint"] == net.settings["checkpoint"] and small.settings != net.settings


# Images


def test_every_kind_of_image_gives_the_same_row(net, tmp_path):
    write_image(tmp_path / "a.png", seed=1)
    write_image(tmp_path / "b.png", seed=2)
    images = [np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png")]
    wanted = net.embed([tmp_path / "a.png", tmp_path / "b.png"], infrared=[True, False])
    mixed = [Image.open(tmp_path / "a.png"), images[1]]
    np.testing.assert_array_equal(net.embed(mixed, infrared=np.array([True, False])), wanted)
    np.testing.assert_array_equal(net.embed(np.stack(images), infrared=[True, False]), wanted)
    np.testing.assert_array_equal(net.embed(str(tmp_path / "a.png"), infrared=True), wanted[:1])
    assert net.embed([], infrared=False).shape == (0, net.numbers)
    assert np.abs(net.embed(images, infrared=False) - wanted).max(axis=1)[0] > 1e-3  # the stems differ


def test_a_pillow_image_is_turned_scaled_and_left_as_it_is(net, tmp_path):
    write_image(tmp_path / "a.png", seed=1)
    image, exif = Image.open(tmp_path / "a.png"), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    deep = Image.fromarray(np.arange(72, dtype=np.uint16).reshape(12, 6) * 300)
    deep.save(tmp_path / "deep.png")
    for name in ("turned.png", "deep.png"):
        with Image.open(tmp_path / name) as opened:
            size = opened.size
            row = net.embed(opened, infrared=True)
            assert opened.size == size
        np.testing.assert_array_equal(row, net.embed(tmp_path / name, infrared=True))
    turned, plain = (open_image(str(tmp_path / name), 6, 12).tolist() for name in ("turned.png", "a.png"))
    assert turned != plain


# Rankings


def test_a_ranking_by_hand():
    queries, gallery = np.float32([[1, 0], [0, 1]]), np.float32([[0, 1], [1, 0], [1, 0], [-1, 0]])
    order, similarities = vireid.rank(queries, gallery)
    assert order.tolist() == [[1, 2, 0, 3], [0, 1, 2, 3]]  # of equal ones the earlier
    assert similarities.tolist() == [[1, 1, 0, -1], [1, 0, 0, 0]] and similarities.dtype == np.float32
    assert vireid.rank(queries, gallery, top=1).order.tolist() == [[1], [0]]
    order, similarities = vireid.rank(queries, gallery, top=3, gallery_cameras=[1, 2, 3, 2], ignores=[2, [1, 2]])
    assert order.tolist() == [[2, 0, -1], [2, -1, -1]] and similarities[1, 1] == -np.inf
    assert vireid.rank(queries, gallery, gallery_cameras=[0] * 4, ignores=[-1, 0]).order[1].tolist() == [-1] * 4
    assert vireid.rank(torch.from_numpy(queries).double(), gallery, top=9).order.shape == (2, 4)


# What is wrong


@pytest.mark.parametrize("images, infrared, error, message", [
    ("nowhere.jpg", True, DataError, "there is no image nowhere.jpg"),
    (__file__, True, DataError, "is broken or no image"),
    ([np.zeros((4, 4), np.uint8)], True, DataError, "image 0 is an array of uint8 (4, 4); an image is a path"),
    (np.zeros((4, 4, 3)), True, DataError, "image 0 is an array of float64 (4, 4, 3); an image is a path"),
    (np.zeros((0, 4, 3), np.uint8), True, DataError, "image 0 is an array of uint8 (0, 4, 3); an image is a path"),
    ([3], True, DataError, "image 0 is <class 'int'>; an image is a path"),
    (3, True, DataError, "it is an image (a path, a Pillow image, an array) or a list of images"),
    ("a.png", "ir", ConfigError, "infrared is 'ir'; it is True or False, or a list with a value of each image"),
    ("a.png", [True, False], ConfigError, "infrared has 2 values for 1 image: give one for each"),
])
def test_images_that_are_none(net, images, infrared, error, message):
    with pytest.raises(error, match=re.escape(message)) as raised:
        net.embed(images, infrared=infrared)
    assert isinstance(raised.value, vireid.ERRORS)


def test_a_pillow_image_that_is_cut_off_and_an_embedding_that_is_not_finite(net, tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", seed=1)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    with pytest.raises(DataError, match="image 1 is broken .*; open it anew"):
        net.embed([tmp_path / "a.png", Image.open(tmp_path / "cut.png")], infrared=True)
    with pytest.raises(ConfigError, match="rows is 'cosine'; it is one of unit, raw"):
        net.embed([], infrared=True, rows="cosine")
    monkeypatch.setattr(net.embedder, "scale", net.embedder.scale * torch.nan)
    with pytest.raises(EvaluationError, match="the embedding of .*a.png is not finite .nan or infinite.: the net"):
        net.embed(tmp_path / "a.png", infrared=True)


@pytest.mark.parametrize("options, error, message", [
    ({"precision": "half"}, ConfigError, "precision is 'half'; it is one of float32, bfloat16, float16"),
    ({"batch": 0}, ConfigError, "batch is 0; it is a whole number of 1 at least"),
    ({"weighting": "equal"}, ConfigError, "TEST.WEIGHTINGS has 'equal'"),
    ({"options": {"TEST.FLIPPED": True}}, ConfigError, "which is not an option; the nearest is"),
    ({"device": "cuda:99"}, vireid.ERRORS, "DEVICE is 'cuda:99', which cannot be used here"),
])
def test_what_cannot_be_loaded(trained, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        vireid.load(trained("quickstart_base"), **options)
    with pytest.raises(CheckpointError, match="there is no checkpoint at nowhere"):
        vireid.load("nowhere")


@pytest.mark.parametrize("options, message", [
    ({"gallery": np.ones((2, 3))}, "queries have 2 numbers each, the gallery has 3: embed both with one network"),
    ({"gallery": np.ones(2)}, "gallery has the shape (2,); it is (rows, numbers), neither of them 0"),
    ({"gallery": np.full((2, 2), np.nan)}, "row 0 of gallery is not finite (nan or infinite)"),
    ({"ignores": [1]}, "gallery_cameras and ignores go together: give both, or none"),
    ({"ignores": [1], "gallery_cameras": [1]}, "gallery_cameras has 1 entry; it needs 2, one for each row"),
    ({"rerank": "mser"}, "rerank is 'mser'; it is one of none, k_reciprocal, aim (mser embeds visible images four"),
    ({"rerank": "aim", "aim": (0, 1)}, "aim is (0, 1); its two numbers are 1 at least"),
    ({"top": 0}, "top is 0; it is a whole number of 1 at least, or None"),
])
def test_what_cannot_be_ranked(options, message):
    with pytest.raises((ConfigError, EvaluationError), match=re.escape(message)):
        vireid.rank(np.ones((1, 2)), **{"gallery": np.ones((2, 2))} | options)


# Names that meet


def test_loading_leaves_a_programs_random_numbers_alone(trained):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    vireid.load(trained("quickstart_base"))
    assert torch.equal(torch.rand(3), wanted)


def test_the_page_runs_in_a_program_with_packages_of_the_same_names(trained, shared_data, tmp_path):
    """In a process of its own, in another folder, with PYTHONSAFEPATH, beside other `utils`, `data` and `models`."""
    page = (ROOT / "docs" / "own_program.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    example = "\n".join(blocks).replace("path/to/the/clone", str(ROOT))
    for name in ("utils.py", "data.py"):
        (tmp_path / name).write_text("mine = True\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "one.py").write_text("mine = True\n")
    shutil.copytree(trained("quickstart_cmfn"), tmp_path / "runs" / "quickstart")
    shutil.copytree(shared_data / "cam1", tmp_path / "all")
    (tmp_path / "photos").mkdir()
    for number, path in enumerate(sorted((tmp_path / "all").rglob("*.jpg"))):
        path.rename(tmp_path / "photos" / f"{number}.jpg")
    shutil.copy(next((shared_data / "cam3").rglob("*.jpg")), tmp_path / "night.jpg")
    (tmp_path / "program.py").write_text(f"""import sys
sys.path.insert(0, {str(tmp_path)!r})
import utils
{example}
import data, utils as again, models.one
assert utils.mine and again is utils and data.mine and models.one.mine
assert not {{name.partition(".")[0] for name in sys.modules}} & {{"assembly", "configs", "losses", "common"}}
assert {str(ROOT)!r} == sys.path[-1] and {str(ROOT)!r} not in sys.path[:-1]
assert vireid.load is sys.modules["vireid"].load
""")
    environment = os.environ | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = run_apart(*command(tmp_path / "program.py"), folder=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "there is no image nowhere.jpg" in done.stdout and "<CMFN: images of 64x32" in done.stdout
