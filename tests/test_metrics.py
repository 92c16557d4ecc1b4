"""Ranks, average precision and inverse negative penalty against hand counts, a plain loop and stored figures."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from utils.evaluation.metrics import full_float32, inner_products, rank_queries, summarize


def one_query(similarity, gallery_ids, query_id=1, ignored=None, counts="identities"):
    ignored = None if ignored is None else torch.tensor([ignored])
    figures = rank_queries(
        torch.tensor([similarity]), torch.tensor([query_id]), torch.tensor(gallery_ids), ignored, counts
    )
    return figures.rank.item(), figures.ap.item(), figures.inp.item(), figures.valid.item()


def test_identities_count_once_and_images_each():
    similarity, gallery_ids = [0.9, 0.8, 0.7, 0.6, 0.5], [7, 7, 8, 1, 1]
    ap, inp = (1 / 4 + 2 / 5) / 2, 2 / 5
    assert one_query(similarity, gallery_ids) == (3, ap, inp, True)                   # after persons 7 and 8
    assert one_query(similarity, gallery_ids, counts="images") == (4, ap, inp, True)  # after three images


def test_an_ignored_entry_leaves_the_ranking():
    similarity, gallery_ids = [0.9, 0.8, 0.7, 0.6], [7, 1, 8, 1]
    assert one_query(similarity, gallery_ids, ignored=[True, True, False, False]) == (2, 1 / 2, 1 / 2, True)


def test_ties_go_to_the_earlier_entry():
    assert one_query([0.5, 0.5, 0.5], [7, 1, 8])[0] == 2
    assert one_query([0.0, -0.0], [7, 1])[0] == 2
    assert one_query([-0.0, 0.0], [7, 1])[0] == 2


def test_negative_infinite_and_tiny_similarities_are_ordered():
    assert one_query([-float("inf"), -2.0, -1e-40, 0.0, 1e-40, 3.0, float("inf")], [1, 2, 3, 4, 5, 6, 7])[0] == 7
    assert one_query([-2.0, -1.0, -1e-40], [2, 1, 3])[0] == 2


def test_an_absent_identity_is_left_out_of_every_figure():
    figures = rank_queries(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([1, 5]), torch.tensor([1, 2]))
    assert figures.valid.tolist() == [True, False]
    assert summarize(figures) == {"cmc": [1.0] * 20, "mAP": 1.0, "mINP": 1.0, "valid_queries": 1}


def test_no_valid_query_is_an_error():
    figures = rank_queries(torch.rand(2, 3), torch.tensor([1, 2]), torch.tensor([3, 4, 5]))
    with pytest.raises(ValueError, match="none of 2 queries has its identity in the gallery that it keeps"):
        summarize(figures)


def test_nan_is_an_error_even_where_ignored():
    similarity = torch.rand(5, 4)
    similarity[3, 2] = float("nan")
    ids = torch.arange(4)
    with pytest.raises(ValueError, match="query 3 and gallery entry 2 is nan"):
        rank_queries(similarity, torch.arange(5), ids, torch.ones(5, 4, dtype=torch.bool), chunk_bytes=1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"similarity": torch.rand(2, 3).double()}, "similarities must be float32"),
        ({"similarity": torch.rand(3, 2)}, "do not fit"),
        ({"ignored": torch.zeros(2, 1, dtype=torch.bool)}, "ignored is"),
        ({"counts": "people"}, "CMC counts 'identities' or 'images', not 'people'"),
        ({"similarity": torch.rand(2, 0), "gallery_ids": torch.tensor([], dtype=torch.int64)}, "nothing to rank"),
    ],
)
def test_arguments_that_do_not_fit(change, message):
    given_arguments = {"similarity": torch.rand(2, 3), "query_ids": torch.arange(2), "gallery_ids": torch.arange(3)}
    with pytest.raises(ValueError, match=message):
        rank_queries(**(given_arguments | change))


def plain_figures(similarity, query_ids, gallery_ids, ignored, counts):
    """One query after the other, one gallery entry after the other: (rank, AP, INP) of each, None where invalid."""
    figures = []
    for q, row in enumerate(similarity):
        order = sorted(range(len(row)), key=lambda j: -row[j])  # sorted is stable
        ranking = [gallery_ids[j] for j in order if not ignored[q][j]]
        hits = [place for place, identity in enumerate(ranking, start=1) if identity == query_ids[q]]
        if not hits:
            figures.append(None)
            continue
        before = ranking[:hits[0] - 1]
        rank = 1 + len(set(before) if counts == "identities" else before)
        ap = sum(j / place for j, place in enumerate(hits, start=1)) / len(hits)
        figures.append((rank, ap, len(hits) / hits[-1]))
    return figures


@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    entries=st.integers(1, 60),
    identities=st.integers(1, 30),
    levels=st.sampled_from([1, 2, 5, 10**6]),  # few levels: many ties
    ignored_share=st.sampled_from([0, 0.2, 0.9]),
    counts=st.sampled_from(["identities", "images"]),
)
def test_equals_a_plain_loop_whatever_the_chunk(seed, queries, entries, identities, levels, ignored_share, counts):
    r = np.random.RandomState(seed)
    similarity = (r.randint(-levels, levels + 1, (queries, entries)) / levels).astype(np.float32)
    query_ids, gallery_ids = r.randint(0, identities, queries) - 5, r.randint(0, identities, entries) - 5
    ignored = r.rand(queries, entries) < ignored_share
    expected = plain_figures(similarity.tolist(), query_ids.tolist(), gallery_ids.tolist(), ignored, counts)

    arguments = [torch.as_tensor(x) for x in (similarity, query_ids, gallery_ids, ignored)]
    figures = rank_queries(*arguments, counts)
    assert figures.valid.tolist() == [e is not None for e in expected]
    kept = [e for e in expected if e is not None]
    assert figures.rank[figures.valid].tolist() == [rank for rank, _, _ in kept]
    np.testing.assert_allclose(figures.ap[figures.valid], [ap for _, ap, _ in kept], rtol=1e-12)
    assert figures.inp[figures.valid].tolist() == [inp for _, _, inp in kept]
    assert not figures.rank[~figures.valid].any()
    assert figures.ap[~figures.valid].isnan().all() and figures.inp[~figures.valid].isnan().all()
    if kept:
        summary = summarize(figures)
        assert summary["cmc"] == [sum(rank <= k for rank, _, _ in kept) / len(kept) for k in range(1, 21)]
        assert summary["mAP"] == pytest.approx(np.mean([ap for _, ap, _ in kept]), rel=1e-12)

    for chunk_bytes in (1, 5000):
        chunked = rank_queries(*arguments, counts, chunk_bytes=chunk_bytes)
        for name in ("rank", "ap", "inp", "valid"):
            torch.testing.assert_close(
                getattr(chunked, name), getattr(figures, name), rtol=0, atol=0, equal_nan=True
            )
    assert np.array_equal(arguments[0].numpy(), similarity)  # the caller's matrix is left as it was


def stored_case(case):
    """A case of tests/data/evaluator.json, drawn by the rule under which its figures were made."""
    r = np.random.RandomState(case["seed"])
    q, g = r.randint(0, 25, 60), r.randint(0, 25, 90)
    ignored = np.zeros((60, 90), dtype=bool)
    if case["protocol"] == "sysu":
        query_camera, gallery_camera = r.choice([3, 6], 60), r.choice([1, 2, 4, 5], 90)
        ignored = (query_camera[:, None] == 3) & (gallery_camera == 2)
    elif case["protocol"] == "llcm":
        query_camera, gallery_camera = r.choice([1, 2, 4, 5, 6, 7, 8, 9], 60), r.randint(1, 10, 90)
    if case["seed"] % 2:
        g[g == 3] = 4
    if case["protocol"] == "llcm":
        ignored = (query_camera[:, None] == gallery_camera) & (q[:, None] == g)
    distance = r.rand(60, 90) - 0.35 * (q[:, None] == g)
    return [torch.as_tensor(x) for x in (-distance.astype(np.float32), q, g, ignored)]


def test_the_stored_figures(data_dir):
    cases = json.loads((data_dir / "evaluator.json").read_text())
    assert {case["protocol"] for case in cases} == {"sysu", "regdb", "llcm"}
    for case in cases:
        counts = "images" if case["protocol"] == "regdb" else "identities"
        summary = summarize(rank_queries(*stored_case(case), counts))
        for name in ("cmc", "mAP", "mINP"):
            assert summary[name] == pytest.approx(case[name], abs=1e-6), (case["seed"], case["protocol"], name)


@pytest.fixture
def torch_threads():
    """Sets torch's number of threads, and afterwards puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_change_nothing_and_keep_their_number(torch_threads):
    with torch.inference_mode():  # holds in this thread alone
        similarity, ids = torch.rand(50, 40), torch.arange(50) % 10
        results = []
        for threads in (1, 2, 5):
            torch_threads(threads)
            results.append(rank_queries(similarity, ids, ids[:40], chunk_bytes=5000))
            assert torch.get_num_threads() == threads
    for name in ("rank", "ap", "inp", "valid"):
        assert all(torch.equal(getattr(results[0], name), getattr(result, name)) for result in results)


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.bytes = max(self.bytes, tensor.nbytes)
        return result


@pytest.mark.parametrize("counts", ["identities", "images"])
def test_memory_grows_with_the_chunk_and_not_with_the_matrix(counts, torch_threads):
    torch_threads(1)  # a dispatch mode sees its own thread alone

    def largest(queries, chunk_bytes):
        similarity, ids = torch.rand(queries, 300), torch.arange(300) % 60
        with LargestTensor() as seen:
            rank_queries(similarity, torch.arange(queries) % 60, ids, None, counts, chunk_bytes)
        return seen.bytes

    assert largest(1000, 200_000) == largest(2000, 200_000) <= 200_000 < largest(2000, 2_000_000) <= 2_000_000


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_products_are_full_float32_and_the_setting_is_put_back(setting):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        a, b = torch.randn(8, 64), torch.randn(5, 64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = inner_products(a, b)
            with full_float32(a.device):
                assert torch.get_float32_matmul_precision() == "highest"
        assert product.dtype == torch.float32
        torch.testing.assert_close(product.double(), a.double() @ b.double().T, rtol=1e-5, atol=1e-5)
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(before)
