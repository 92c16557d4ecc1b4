"""k-reciprocal re-ranking against a straightforward reading of the paper, image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import utils.evaluation.rerank
from utils.evaluation.rerank import reranked_distance


def plain_reranking(query, gallery, k1, k2, weight):
    """(Q, E), (G, E) -> (Q, G), with loops and Python sets; every matrix dense."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    number = len(x)
    original = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    original = original / original.max(axis=1, keepdims=True)
    ranking = [sorted(range(number), key=lambda j: original[i, j]) for i in range(number)]

    def neighbours(i, k):
        return ranking[i][:k + 1]  # an image is its own nearest

    def reciprocal(i, k):
        return {j for j in neighbours(i, k) if i in neighbours(j, k)}

    encoding = np.zeros((number, number))
    for i in range(number):
        expanded = reciprocal(i, k1)
        for j in reciprocal(i, k1):
            theirs = reciprocal(j, round(k1 / 2))
            if len(theirs & reciprocal(i, k1)) > 2 / 3 * len(theirs):
                expanded |= theirs
        for j in expanded:
            encoding[i, j] = np.exp(-original[i, j])
        encoding[i] /= encoding[i].sum()
    encoding = np.stack([encoding[ranking[i][:k2]].mean(axis=0) for i in range(number)])

    result = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            a, b = encoding[q], encoding[len(query) + g]
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            result[q, g] = (1 - weight) * jaccard + weight * original[q, len(query) + g]
    return result


@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 20),
    entries=st.integers(1, 30),
    k1=st.integers(1, 20),
    k2=st.integers(1, 6),
    weight=st.sampled_from([0, 0.3, 1]),
    chunk_bytes=st.sampled_from([1, 20_000, 1 << 28]),
)
def test_equals_the_plain_reading(seed, queries, entries, k1, k2, weight, chunk_bytes):
    r = np.random.RandomState(seed)
    centres = r.randn(6, 8)
    query = (centres[r.randint(6, size=queries)] + 0.5 * r.randn(queries, 8)).astype(np.float32)
    gallery = (centres[r.randint(6, size=entries)] + 0.5 * r.randn(entries, 8)).astype(np.float32)
    k2 = min(k2, k1 + 1)
    found = reranked_distance(torch.as_tensor(query), torch.as_tensor(gallery), k1, k2, weight, chunk_bytes)
    np.testing.assert_allclose(found, plain_reranking(query, gallery, k1, k2, weight), atol=2e-5)


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_earlier_image(seed):
    r = np.random.RandomState(seed)
    query = r.randint(-1, 2, (10, 3)).astype(np.float32)  # whole numbers: distances are exact, and many are equal
    gallery = r.randint(-1, 2, (15, 3)).astype(np.float32)
    found = reranked_distance(torch.as_tensor(query), torch.as_tensor(gallery), 8, 3)
    expected = plain_reranking(query, gallery, 8, 3, 0.3)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_shared_neighbourhood_brings_images_together():
    """The query is as far from entry 0 as from entry 1, but only entry 1 shares its neighbours."""
    query = torch.tensor([[0.0, 0.0]])
    gallery = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.5, 0.1], [0.5, -0.1], [-5.0, 0.0], [-5.0, 1.0], [-5.0, 2.0]])
    distance = reranked_distance(query, gallery, k1=3, k2=1)[0]
    assert distance[1] < distance[0]


def test_distances_come_in_chunks(monkeypatch):
    rows = []

    def recorded(*arguments):
        distance = original(*arguments)
        rows.append(len(distance))
        return distance

    original = utils.evaluation.rerank.squared_distances
    monkeypatch.setattr(utils.evaluation.rerank, "squared_distances", recorded)
    query, gallery = torch.rand(150, 4), torch.rand(250, 4)
    in_chunks = reranked_distance(query, gallery, chunk_bytes=1 << 20)
    assert len(rows) > 4 and max(rows) < 100
    torch.testing.assert_close(in_chunks, reranked_distance(query, gallery), rtol=0, atol=1e-5)


def test_identical_images_give_finite_distances():
    assert reranked_distance(torch.ones(30, 4), torch.ones(40, 4)).isfinite().all()


def test_nan_and_impossible_settings_are_errors():
    features = torch.rand(5, 3)
    with pytest.raises(ValueError, match=r"re-ranking needs k1 >= 1, 1 <= k2 <= k1 \+ 1"):
        reranked_distance(features, features, k1=3, k2=6)
    features[2, 1] = float("nan")
    with pytest.raises(ValueError, match="a distance of image . is nan"):
        reranked_distance(torch.rand(4, 3), features)
