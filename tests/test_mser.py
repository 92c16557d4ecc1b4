"""MSER against its authors' numbers, and by hand; TEST.RERANK by name."""

import json

import numpy as np
import pytest
import torch
from programs import run
from reference import DATA
from shared import copy_of
from torch.nn import functional as F

from configs.load import from_dump, load_config
from data.dataset import EvalImages
from data.records import Protocol, Record, Trial
from utils.evaluation.evaluator import EvaluationError, Versions, evaluate_protocol, mser_similarities
from utils.evaluation.mser import mser_distance

CASES = json.loads((DATA / "losses_mcja.json").read_text())["mser"]


def drawn(case):
    random = np.random.RandomState(case["seed"])
    centers = random.standard_normal((6, 32))
    of_queries, of_gallery = random.randint(0, 6, case["queries"]), random.randint(0, 6, case["gallery"])
    query, gallery = (
        centers[who] + 0.7 * random.standard_normal((len(who), 32)) for who in (of_queries, of_gallery)
    )

    def versions(x):
        return np.stack([x + 0.2 * random.standard_normal(x.shape) for _ in range(4)])

    query, gallery = (query[None], versions(gallery)) if case["mode"] == "i2v" else (versions(query), gallery[None])
    return torch.from_numpy(query).float(), torch.from_numpy(gallery).float()


@pytest.mark.parametrize("chunk_bytes", [1 << 28, 20_000])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['seed']}-{case['mode']}")
def test_distances_match(case, chunk_bytes):
    found = mser_distance(*drawn(case), case["k1"], case["k2"], case["lambda"], chunk_bytes)
    np.testing.assert_allclose(found, case["distance"], rtol=0, atol=1e-6)


def test_without_jaccard_it_is_the_mean_of_the_original_distances():
    query, gallery = drawn(CASES[0])
    found = mser_distance(query, gallery, 8, 4, weight=1.0)
    rows = F.normalize(torch.cat([query[0], *gallery]), dim=1)
    distance = torch.cdist(rows, rows).square()
    expected = (distance / distance.amax(dim=1, keepdim=True))[:30, 30:].unflatten(1, (4, 20)).mean(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_settings_out_of_range_and_distances_that_are_none_are_refused():
    rows = torch.rand(1, 5, 3)
    with pytest.raises(ValueError, match="needs k1 >= 1, 1 <= k2 <= k1 \\+ 1, 0 <= weight <= 1; not 3, 6, 0.3"):
        mser_distance(rows, rows, k1=3, k2=6)
    with pytest.raises(ValueError, match="a distance of image 0 is nan"):
        mser_distance(rows, torch.full((1, 2, 3), torch.nan), chunk_bytes=1)


def protocol_of(query, gallery, images=12):
    rows = np.zeros(images, dtype=np.int64)
    return Protocol("toy/all", (Trial(query=np.array(query), gallery=np.array(gallery)),), "identities", rows - 1, rows)


@pytest.mark.parametrize("query, gallery", [([7, 6, 8], [0, 1, 2, 3]), ([3, 0, 1], [6, 8, 9])])
def test_the_visible_side_is_seen_four_times(query, gallery):
    """The reader finds the query's rows in ascending order."""
    infrared, features = np.arange(12) >= 6, torch.randn(12, 5)
    colours, scale = torch.randn(3, 12, 5), torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    versions, found = Versions(infrared, colours), []
    (number, rows, similarity), = mser_similarities(
        features, protocol_of(query, gallery).trials, scale, 1 << 20, versions)
    for side in (sorted(query), gallery):
        every = [features, *colours] if side[0] < 6 else [features]
        found.append(torch.stack([(x * scale)[side] for x in every]))
    assert (number, rows.tolist()) == (0, sorted(query))
    torch.testing.assert_close(similarity, -mser_distance(*found))
    result = evaluate_protocol(features, [0, 1] * 6, protocol_of(query, gallery), flip=False, weighting="neck",
                               rerank="mser", versions=versions)
    assert result["rerank"] == "mser"


@pytest.mark.parametrize("query, gallery", [([0, 1], [2, 3]), ([0, 7], [8, 9]), ([6, 7], [1, 8])])
def test_a_trial_within_a_modality_is_refused(query, gallery):
    versions = Versions(np.arange(12) >= 6, torch.rand(3, 12, 4))
    with pytest.raises(EvaluationError, match="has queries or gallery images of both modalities, or both of one"):
        evaluate_protocol(torch.rand(12, 4), [0] * 12, protocol_of(query, gallery), flip=False, weighting="neck",
                          rerank="mser", versions=versions)


def test_all_channels_become_one_of_them(shared_data):
    path = str(next((shared_data / "cam1").rglob("*.jpg")))
    records = [Record(path, 1, 1, False)]
    plain, _ = EvalImages(records, [0], 24, 12)[0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for channel in range(3):
        image, row = EvalImages(records, [0], 24, 12, channel=channel)[0]
        values = image * std[:, None, None] + mean[:, None, None]
        torch.testing.assert_close(values, values[:1].expand(3, -1, -1), rtol=0, atol=1e-6)
        torch.testing.assert_close(image[channel], plain[channel])
        assert row == 0


@pytest.mark.parametrize("written, name", [
    ("true", "k_reciprocal"), ("false", "none"), ("mser", "mser"), ("none", "none"),
])
def test_what_true_and_false_meant_is_read(written, name, tmp_path):
    (tmp_path / "a.yaml").write_text(f"TEST: {{RERANK: {written}}}\n")
    assert load_config(tmp_path / "a.yaml").TEST.RERANK == name
    assert load_config(None, ["TEST.RERANK", written]).TEST.RERANK == name
    cfg = load_config(None)
    assert from_dump(cfg.dump().replace("RERANK: none", f"RERANK: {written}")).TEST.RERANK == name


@pytest.mark.parametrize("options", [[], ["EMBEDDING.DIM", "4"]])
def test_a_run_is_tested_with_it(options, trained, tmp_path):
    folder = copy_of(trained("quickstart_mcja"), tmp_path / "copy")
    done = run("test.py", "--checkpoint", folder, "TEST.RERANK", "mser", *options)
    entries = json.loads((folder / "results.json").read_text())["results"]
    assert {entry["rerank"] for entry in entries} == {"mser"}
    assert " mser " in done.stdout and "which a search doesn't have" in done.stdout
    refused = run("scripts/reproduce_table.py", folder / "results.json", "--output", tmp_path, check=False)
    assert refused.returncode == 1


def test_images_are_of_the_same_ranking(trained, tmp_path):
    run("scripts/visualize.py", trained("quickstart_mcja"), "--parts", "ranking", "--top", "2", "--output", tmp_path,
        "TEST.RERANK", "mser")
    assert (tmp_path / "ranking.png").stat().st_size > 1000
