"""From loaders to figures: every image embedded once, trials sharing their products, results ready for JSON."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from programs import run

import utils.evaluation.evaluator
from utils.evaluation.evaluator import EvaluationError, embed_images, evaluate_protocol, format_table
from utils.evaluation.metrics import rank_queries, summarize
from utils.evaluation.rerank import reranked_distance

PATHS = [f"/data/{i}.jpg" for i in range(5)]


def loaders_of_five(images):
    """Rows 0, 2, 4 visible and 1, 3 infrared, in batches."""
    visible = [(images[[4, 0]], torch.tensor([4, 0])), (images[[2]], torch.tensor([2]))]
    infrared = [(images[[1, 3]], torch.tensor([1, 3]))]
    return [(visible, False), (infrared, True)]


def channel_means(images, infrared):
    return images.mean(dim=(2, 3)) * (-1 if infrared else 1)


def test_each_image_goes_to_its_row_through_its_modality():
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 4, 2) + 1
    features = embed_images(channel_means, loaders_of_five(images), PATHS, "cpu")
    assert features[:, 0].tolist() == [1, -2, 3, -4, 5]
    assert features.dtype == torch.float32 and features.shape == (5, 3)


def test_autocast_reaches_the_network_and_not_the_embeddings():
    seen = []

    def embed(images, infrared):
        seen.append((images.flatten(1) @ torch.ones(24, 7)).dtype)
        return channel_means(images, infrared).bfloat16()

    features = embed_images(embed, loaders_of_five(torch.rand(5, 3, 4, 2)), PATHS, "cpu", autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    assert features.dtype == torch.float32


def test_embeddings_are_computed_without_tf32(monkeypatch):
    """Whose default, in convolutions, is torch's own."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before, seen = torch.get_float32_matmul_precision(), []

    def embed(images, infrared):
        seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return channel_means(images, infrared)

    torch.set_float32_matmul_precision("high")
    try:
        embed_images(embed, loaders_of_five(torch.rand(5, 3, 4, 2)), PATHS, "cpu")
        assert torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert {*seen} == {(False, "highest")}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_embedding_that_is_not_finite_names_the_first_image(value):
    images = torch.rand(5, 3, 4, 2)
    images[3, 1, 2, 1] = images[4, 0, 0, 0] = value
    with pytest.raises(EvaluationError, match="/data/3.jpg is not finite.* 1 of the other"):
        embed_images(channel_means, loaders_of_five(images), PATHS, "cpu")


def test_an_image_left_out_or_embedded_twice_is_an_error():
    images = torch.rand(5, 3, 4, 2)
    with pytest.raises(EvaluationError, match=r"/data/1.jpg \(row 1\) was embedded 0 times"):
        embed_images(channel_means, loaders_of_five(images)[:1], PATHS, "cpu")
    with pytest.raises(EvaluationError, match=r"/data/0.jpg \(row 0\) was embedded 2 times"):
        embed_images(channel_means, loaders_of_five(images) + loaders_of_five(images)[:1], PATHS, "cpu")
    with pytest.raises(EvaluationError, match="no image"):
        embed_images(channel_means, [], [], "cpu")


def random_protocol(seed=0, images=80, trials=3):
    """Features with ties, identities, and trials that differ in their queries and in the gallery's order."""
    r = np.random.RandomState(seed)
    camera = r.randint(1, 7, images)
    protocol = SimpleNamespace(
        name="toy/all", counts="identities",
        trials=tuple(
            SimpleNamespace(query=r.permutation(images)[:20], gallery=r.permutation(images)[:35]) for _ in range(trials)
        ),
        query_ignores=np.where(camera == 3, 2, -1), gallery_group=camera,
    )
    return torch.as_tensor(r.randint(-2, 3, (images, 6)).astype(np.float32)), r.randint(0, 9, images), protocol


def evaluate(features, identities, protocol, **options):
    return evaluate_protocol(features, identities, protocol, flip=True, weighting="equal", **options)


@pytest.mark.parametrize("block_bytes", [1, 3000, 1 << 28])
@pytest.mark.parametrize("scaled", [False, True])
def test_shared_products_give_each_trials_own_figures(block_bytes, scaled):
    features, identities, protocol = random_protocol()
    scale = torch.tensor([1.0, 2, 0, 1, 0.5, 3]) if scaled else None
    result = evaluate(features, identities, protocol, scale=scale, block_bytes=block_bytes)
    x = features * scale if scaled else features
    for trial, found in zip(protocol.trials, result["trials"]):
        ignored = protocol.query_ignores[trial.query, None] == protocol.gallery_group[trial.gallery]
        expected = summarize(rank_queries(
            x[trial.query] @ x[trial.gallery].T, torch.as_tensor(identities[trial.query]),
            torch.as_tensor(identities[trial.gallery]), torch.as_tensor(ignored),
        ))
        assert [found[f"rank{k}"] for k in (1, 5, 10, 20)] == [expected["cmc"][k - 1] for k in (1, 5, 10, 20)]
        assert found["valid_queries"] == expected["valid_queries"]
        assert found["mAP"] == pytest.approx(expected["mAP"], rel=1e-12)
        assert found["mINP"] == pytest.approx(expected["mINP"], rel=1e-12)
    assert result["mean"]["mAP"] == pytest.approx(np.mean([t["mAP"] for t in result["trials"]]))
    assert result["std"]["rank1"] == pytest.approx(np.std([t["rank1"] for t in result["trials"]]))


def test_block_size_changes_no_bit():
    features, identities, protocol = random_protocol()
    results = [
        evaluate(features, identities, protocol, per_query=True, block_bytes=size) for size in (1, 2000, 1 << 28)
    ]
    assert results[0] == results[1] == results[2]


def test_each_pair_of_images_is_multiplied_once(monkeypatch):
    features, identities, protocol = random_protocol(trials=5)
    products = []
    original = utils.evaluation.evaluator.inner_products
    monkeypatch.setattr(
        utils.evaluation.evaluator, "inner_products", lambda a, b: (products.append(len(a) * len(b)), original(a, b))[1]
    )
    evaluate(features, identities, protocol, block_bytes=4000)
    queries = set(np.concatenate([trial.query for trial in protocol.trials]))
    gallery = set(np.concatenate([trial.gallery for trial in protocol.trials]))
    assert sum(products) == len(queries) * len(gallery)
    assert len(products) > 1


def test_reranking_ranks_by_the_reranked_distance():
    r = np.random.RandomState(0)
    _, identities, protocol = random_protocol()
    features = torch.as_tensor((r.randn(9, 6)[identities] + r.randn(80, 6)).astype(np.float32))
    scale = torch.tensor([1.0, 2, 0, 1, 0.5, 3])
    result = evaluate(features, identities, protocol, scale=scale, rerank="k_reciprocal")
    trial = protocol.trials[1]
    ignored = protocol.query_ignores[trial.query, None] == protocol.gallery_group[trial.gallery]
    x = features * scale
    # in the evaluator's order of queries: where images are the same, the order decides between neighbours
    order = np.argsort(trial.query)
    distance = reranked_distance(x[trial.query[order]], x[trial.gallery])
    expected = summarize(rank_queries(
        -distance, torch.as_tensor(identities[trial.query[order]]), torch.as_tensor(identities[trial.gallery]),
        torch.as_tensor(ignored[order]),
    ))
    assert result["rerank"] == "k_reciprocal"
    assert result["trials"][1]["mAP"] == pytest.approx(expected["mAP"], rel=1e-12)
    assert result["trials"][1]["mAP"] != evaluate(features, identities, protocol, scale=scale)["trials"][1]["mAP"]


def test_a_result_survives_json_and_its_queries_give_its_figures():
    features, identities, protocol = random_protocol()
    result = evaluate(features, identities, protocol, per_query=True)
    assert json.loads(json.dumps(result)) == result
    for trial, described in zip(result["trials"], protocol.trials):
        queries = trial["queries"]
        assert len(queries["rows"]) == trial["valid_queries"] and set(queries["rows"]) <= set(described.query)
        assert np.mean(queries["ap"]) == pytest.approx(trial["mAP"], rel=1e-12)
        assert np.mean(np.array(queries["rank"]) <= 5) == pytest.approx(trial["rank5"], rel=1e-12)
    assert "queries" not in evaluate(features, identities, protocol)["trials"][0]


def test_errors_name_protocol_and_trial():
    features, identities, protocol = random_protocol()
    with pytest.raises(EvaluationError, match="toy/all describes 80 images, for which there are 79 embeddings"):
        evaluate(features[:79], identities, protocol)
    lonely = np.arange(80)
    for trial in protocol.trials:
        trial.gallery = np.setdiff1d(trial.gallery, trial.query)
    with pytest.raises(EvaluationError, match="toy/all, trial 0: none of 20 queries"):
        evaluate(features, lonely, protocol)
    features[[7, 9], 2] = float("nan")
    for rerank in ("none", "k_reciprocal"):
        with pytest.raises(EvaluationError, match="toy/all: the embedding in row 7 is not finite"):
            evaluate(features, identities, protocol, rerank=rerank)
    features[[7, 9], 2] = 0
    protocol.trials[2].gallery = np.array([], dtype=np.int64)
    with pytest.raises(EvaluationError, match="toy/all, trial 2 lacks queries or gallery images: it has 20 and 0"):
        evaluate(features, identities, protocol)
    protocol.trials = ()
    with pytest.raises(EvaluationError, match="toy/all has no trial"):
        evaluate(features, identities, protocol)


def test_the_table_says_what_each_number_is():
    features, identities, protocol = random_protocol()
    ten = evaluate(features, identities, protocol)
    protocol.trials, protocol.name = protocol.trials[:1], "toy/indoor"
    one = evaluate_protocol(features, identities, protocol, flip=False, weighting="neck", rerank="k_reciprocal")
    header, first, second = format_table([ten, one]).splitlines()
    assert first.split()[:5] == ["toy/all", "yes", "equal", "no", "3"]
    assert second.split()[:5] == ["toy/indoor", "no", "neck", "k_reciprocal", "1"]
    assert f"{100 * ten['mean']['mAP']:.2f} ± {100 * ten['std']['mAP']:.2f}" in first
    assert "±" not in second and f"{100 * one['mean']['mINP']:.2f}" in second
    place = header.index("mAP")
    assert first[place:].startswith(f"{100 * ten['mean']['mAP']:.2f}")


def test_the_benchmark_runs_and_agrees_with_the_loop_over_queries():
    done = run("scripts/benchmark_evaluator.py", "--quick", "--device", "cpu")
    assert done.stdout.count(" equal ") == 4
    for way in ("none", "k_reciprocal", "mser", "aim"):
        assert len(re.findall(rf", {way} +\d+\.\d+ +\d+\.\d", done.stdout)) == 2
