"""MSER, MCJA's re-ranking: the visible images are embedded four times, and queries alone are neighbours.

Liang et al., "Bridging the Gap", TCSVT 2024, as its authors' code computes it, in float32. Its gain comes from the set
of queries: in the benchmarks some 40 images of each person ask, and bridge the modalities. A search has one query.

The visible images are embedded as they are and with all channels set to their red, green and blue one (`versions`); the
infrared ones once. Distances are squared Euclidean of unit vectors, and those of an image are divided by its largest.

Nothing of all images x all images is ever held: distances come in chunks of rows, once, and the encodings are sparse.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.evaluation.metrics import ranking_keys
from utils.evaluation.rerank import (
    BYTES_PER_DISTANCE,
    CHUNK_BYTES,
    average,
    check_settings,
    chunks,
    largest_of,
    overlaps,
    reciprocal_sets,
    squared_distances,
)


def mser_distance(
    query: Tensor, gallery: Tensor, k1: int = 40, k2: int = 20, weight: float = 0.3, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Distance after re-ranking: (1 - weight) · Jaccard + weight · original, mean over the versions.

    query, gallery   (V, Q, E) and (V', G, E) on one device: four versions of the visible ones, one of the infrared ones
    k1               size of the k-reciprocal neighbourhoods, among all queries' versions
    k2               neighbours, of a query the query itself among them, over which encodings are averaged
    weight           of the original distance (the paper's λ)
    chunk_bytes      working memory beside features, encodings and result
    returns          (Q, G), smaller is better
    raises           ValueError where a setting is out of range or a distance is nan
    """
    check_settings(k1, k2, weight)
    (asked, number, _), (shown, size, _) = query.shape, gallery.shape
    queries = asked * number
    features = F.normalize(torch.cat([query.flatten(0, 1), gallery.flatten(0, 1)]), dim=1)
    squares = features.square().sum(dim=1)
    place = torch.arange(queries, device=features.device) % number  # of each version of a query
    result = features.new_zeros(number, size)
    nearest_parts, near_parts = [], []
    for i in chunks(len(features), BYTES_PER_DISTANCE * len(features), chunk_bytes):
        original = squared_distances(features, squares, i)                        # (C, N)
        original /= largest_of(original, i.start)[:, None]
        found = ranking_keys(-original[:, :queries]).topk(min(k1 + 1, queries), largest=False).indices
        nearest_parts.append(found)
        of_queries = original[:max(0, queries - i.start)]
        near_parts.append(of_queries.gather(1, found[:len(of_queries)]))
        to_gallery = of_queries[:, queries:].unflatten(1, (shown, size)).mean(dim=1)
        result.index_add_(0, place[i.start:i.start + len(of_queries)], to_gallery, alpha=weight / asked)

    nearest, near = torch.cat(nearest_parts), torch.cat(near_parts)               # (N, K), (queries, K)
    member = reciprocal_sets(nearest[:queries], chunk_bytes) >= 0                 # of the gallery none has any
    encoding = (-near).exp() * member
    encoding /= encoding.sum(dim=1, keepdim=True).clamp(min=1e-30)
    row, slot = member.nonzero(as_tuple=True)
    column, value = nearest[row, slot], encoding[row, slot]
    if k2 > 1:
        row, column, value = average(row, column, value, nearest[:, :k2], chunk_bytes)
    for i, shared in overlaps(row, column, value, queries, shown * size, chunk_bytes):
        jaccard = (1 - shared / (2 - shared)).unflatten(1, (shown, size)).mean(dim=1)
        result.index_add_(0, place[i], jaccard, alpha=(1 - weight) / asked)
    return result
