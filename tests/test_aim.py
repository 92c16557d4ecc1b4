"""AIM against its authors' numbers, and by hand; its settings by protocol."""

import json

import numpy as np
import pytest
import torch
from programs import run
from reference import DATA
from shared import copy_of
from torch.nn import functional as F

from data.records import Protocol, Trial
from utils.evaluation.aim import aim_similarity, settings_of
from utils.evaluation.evaluator import EvaluationError, check_reranking, evaluate_protocol

CASES = json.loads((DATA / "aim.json").read_text())["cases"]


def drawn(case):
    random = np.random.RandomState(case["seed"])
    centers = random.standard_normal((5, 32))
    of_queries, of_gallery = random.randint(0, 5, case["queries"]), random.randint(0, 5, case["gallery"])
    sides = (of_queries, of_gallery)
    return [torch.from_numpy(centers[who] + 0.8 * random.standard_normal((len(who), 32))) for who in sides]


@pytest.mark.parametrize("chunk_bytes", [1 << 28, 1000])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["seed"]))
def test_similarities_match(case, chunk_bytes):
    found = aim_similarity(*drawn(case), case["k1"], case["k2"], chunk_bytes)
    np.testing.assert_allclose(found, case["similarity"], rtol=0, atol=1e-9)
    single = aim_similarity(*(x.float() for x in drawn(case)), case["k1"], case["k2"], chunk_bytes)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, case["similarity"], rtol=0, atol=2e-6)


def test_equals_a_plain_reading_where_affinities_tie():
    """Whole numbers, of which many are equal: what is as large as the k1-th largest stays."""
    random = np.random.RandomState(0)
    query, gallery = (torch.from_numpy(random.randint(-1, 2, (n, 3)) + 0.0) + 0.001 for n in (7, 11))
    q, g = F.normalize(query, dim=1), F.normalize(gallery, dim=1)

    def cut(row):
        return [x if x >= sorted(row)[-3] else 0.0 for x in row]

    affinity = torch.tensor([cut(row) for row in (g @ g.T).tolist()], dtype=torch.float64)
    nearest = [sorted(range(11), key=lambda j: -(g[i] @ g[j]).item())[:1] for i in range(11)]
    mean = torch.stack([affinity[rows].mean(dim=0) for rows in nearest])
    mine = torch.tensor([cut(row) for row in (q @ g.T).tolist()], dtype=torch.float64)
    expected = F.cosine_similarity(mine[:, None], mean[None], dim=2) + q @ g.T
    torch.testing.assert_close(aim_similarity(query, gallery, 3, 1), expected, rtol=0, atol=1e-9)


def test_more_neighbours_than_images_are_all_of_them():
    query, gallery = torch.randn(4, 5), torch.randn(3, 5)
    torch.testing.assert_close(aim_similarity(query, gallery, 90, 70), aim_similarity(query, gallery, 3, 3))


@pytest.mark.parametrize("protocol, expected", [
    ("sysu/all/single-shot/random", (4, 1)), ("synthetic/all/single-shot/random", (4, 1)),
    ("sysu/indoor/single-shot/official", (2, 2)), ("sysu/all/multi-shot/random", (20, 6)),
    ("sysu/indoor/multi-shot/random", (20, 6)), ("regdb/7/thermal-to-visible", (8, 2)),
])
def test_the_authors_numbers_of_neighbours(protocol, expected):
    assert settings_of(protocol) == expected
    assert settings_of(protocol, k1=3) == (3, expected[1])


def toy(name):
    rows = np.zeros(8, dtype=np.int64)
    return Protocol(name, (Trial(query=np.array([1, 0, 3]), gallery=np.array([4, 5, 6, 7])),), "images", rows - 1, rows)


def test_where_the_authors_give_none_they_are_asked_for_before_any_work():
    words = "AIM's authors give no numbers of neighbours for llcm/ir-to-vis: set TEST.AIM.K1 and TEST.AIM.K2"
    for aim in ((0, 0), (4, 0)):
        with pytest.raises(EvaluationError, match=words):
            check_reranking("aim", [toy("llcm/ir-to-vis")], [], aim)
    check_reranking("aim", [toy("llcm/ir-to-vis")], [], (4, 1))


def test_figures_carry_the_name_with_both_numbers():
    features, scale = torch.randn(8, 6), torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 1.0])
    options = {"flip": False, "weighting": "neck", "scale": scale, "per_query": True}
    result = evaluate_protocol(features, [0, 1] * 4, toy("toy"), rerank="aim", aim=(3, 2), **options)
    assert result["rerank"] == "aim (k1 3, k2 2)"
    by_hand = aim_similarity(*((features * scale)[rows] for rows in ([0, 1, 3], [4, 5, 6, 7])), 3, 2)
    best = by_hand.argmax(dim=1)  # the gallery's identities are 0, 1, 0, 1
    right = best % 2 == torch.tensor([0, 1, 1])
    assert [rank == 1 for rank in result["trials"][0]["queries"]["rank"]] == right.tolist()


def test_a_run_is_tested_and_shown_with_it_and_kept_out_of_tables(trained, tmp_path):
    folder = copy_of(trained("quickstart_base"), tmp_path / "copy")
    done = run("test.py", "--checkpoint", folder, "TEST.RERANK", "aim", drawn=False)
    entries = json.loads((folder / "results.json").read_text())["results"]
    assert {e["rerank"] for e in entries if "/all/" in e["protocol"]} == {"aim (k1 4, k2 1)"}
    assert {e["rerank"] for e in entries if "/indoor/" in e["protocol"]} == {"aim (k1 2, k2 2)"}
    assert " aim (k1 2, k2 2) " in done.stdout and "AIM ranks an image by the whole gallery" in done.stdout
    run("scripts/visualize.py", folder, "--parts", "ranking", "--top", "2", "--output", tmp_path, "TEST.RERANK", "aim")
    assert (tmp_path / "ranking.png").stat().st_size > 1000
    plain = trained("quickstart_base") / "results.json"
    refused = run("scripts/compare_results.py", plain, folder / "results.json", check=False)
    assert refused.returncode == 1 and "re-ranking (no and aim (k1 4, k2 1))" in refused.stderr
