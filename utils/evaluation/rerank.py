"""k-reciprocal re-ranking: Zhong, Zheng, Cao and Li, "Re-ranking Person Re-identification with k-reciprocal
Encoding", CVPR 2017.

Queries and gallery together are the N images of the paper. As in the authors' code, which the published figures come
from: distances are squared Euclidean, and those of an image are divided by their largest; an image counts among its
own neighbours; a neighbour's set joins where *more* than two thirds of it are shared (the paper prints ≥).

Nothing N x N is ever held: distances come in chunks of rows, twice, and the encodings are sparse. On CUDA the sums of
the sparse parts may differ in their last bit from run to run.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from utils.evaluation.metrics import inner_products, ranking_keys

CHUNK_BYTES = 256 << 20
BYTES_PER_DISTANCE = 40  # what a chunk holds at once for one distance: its sort key and temporaries


def reranked_distance(
    query: Tensor, gallery: Tensor, k1: int = 20, k2: int = 6, weight: float = 0.3, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Distance after re-ranking: (1 - weight) · Jaccard + weight · original.

    query, gallery   (Q, E) and (G, E) float32, on one device
    k1               size of the k-reciprocal neighbourhoods
    k2               neighbours, the image itself among them, over which encodings are averaged
    weight           of the original distance (the paper's λ)
    chunk_bytes      working memory beside features, encodings and result
    returns          (Q, G) float32, smaller is better
    raises           ValueError where a setting is out of range or a distance is nan
    """
    check_settings(k1, k2, weight)
    features = torch.cat([query, gallery])
    in_chunks = chunks(len(features), 8 * features.shape[1], chunk_bytes)
    squares = torch.cat([features[i].square().sum(dim=1) for i in in_chunks])
    nearest, largest = nearest_neighbours(features, squares, k1 + 1, chunk_bytes)
    half = reciprocal_sets(nearest[:, :round(k1 / 2) + 1], chunk_bytes)
    sets = reciprocal_sets(nearest, chunk_bytes)

    distance = torch.empty(len(query), len(gallery), device=features.device)
    rows, columns, values = [], [], []
    bytes_per_row = BYTES_PER_DISTANCE * len(features) + 8 * sets.shape[1] ** 2 * half.shape[1]
    for i in chunks(len(features), bytes_per_row, chunk_bytes):
        original = squared_distances(features, squares, i) / largest[i, None]  # (C, N)
        of_queries = original[:max(0, len(query) - i.start), len(query):]
        distance[i.start:i.start + len(of_queries)] = of_queries
        member = expanded_sets(sets[i], half, len(features))                      # (C, N)
        encoding = (-original).exp() * member
        encoding /= encoding.sum(dim=1, keepdim=True).clamp(min=1e-30)
        row, column = member.nonzero(as_tuple=True)
        rows.append(row + i.start)
        columns.append(column)
        values.append(encoding[row, column])
    row, column, value = average(torch.cat(rows), torch.cat(columns), torch.cat(values), nearest[:, :k2], chunk_bytes)
    for i, shared in overlaps(row, column, value, len(query), len(gallery), chunk_bytes):
        distance[i].mul_(weight).add_(1 - shared / (2 - shared), alpha=1 - weight)
    return distance


def check_settings(k1: int, k2: int, weight: float) -> None:
    """
    raises   ValueError where one is out of range
    """
    if k1 < 1 or not 1 <= k2 <= k1 + 1 or not 0 <= weight <= 1:
        raise ValueError(f"re-ranking needs k1 >= 1, 1 <= k2 <= k1 + 1, 0 <= weight <= 1; not {k1}, {k2}, {weight}")


def largest_of(distance: Tensor, first: int) -> Tensor:
    """(C, N) distances of the images from number `first` on -> (C,) the largest, to divide by.

    raises   ValueError where one is nan
    """
    greatest = distance.amax(dim=1)  # amax passes nan on
    if greatest.isnan().any():
        raise ValueError(f"a distance of image {first + int(greatest.isnan().int().argmax())} is nan")
    return greatest.clamp(min=1e-30)


def chunks(number: int, bytes_per_row: int, chunk_bytes: int) -> Iterator[slice]:
    """Slices of `number` rows that need at most `chunk_bytes`, or hold one row."""
    step = max(1, chunk_bytes // bytes_per_row)
    for start in range(0, number, step):
        yield slice(start, min(start + step, number))


def squared_distances(features: Tensor, squares: Tensor, rows: slice) -> Tensor:
    """(N, E) features and their (N,) squared lengths -> (C, N): of the C images in `rows` to all."""
    sums = squares[rows, None] + squares
    return sums.sub_(inner_products(features[rows], features), alpha=2).clamp_(min=0)


def nearest_neighbours(features: Tensor, squares: Tensor, k: int, chunk_bytes: int) -> tuple[Tensor, Tensor]:
    """(N, min(k, N)) nearest images of each, nearest first, ties by row; and (N,) largest distance of each."""
    nearest, largest = [], []
    for i in chunks(len(features), BYTES_PER_DISTANCE * len(features), chunk_bytes):
        distance = squared_distances(features, squares, i)
        largest.append(largest_of(distance, i.start))
        nearest.append(ranking_keys(-distance).topk(min(k, len(features)), largest=False).indices)
    return torch.cat(nearest), torch.cat(largest)


def reciprocal_sets(nearest: Tensor, chunk_bytes: int) -> Tensor:
    """(N, K) neighbours -> (N, K): those that have the image among their own K neighbours, -1 for the others."""
    sets = []
    for i in chunks(len(nearest), 12 * nearest.shape[1] ** 2, chunk_bytes):
        image = torch.arange(i.start, i.stop, device=nearest.device)[:, None, None]
        sets.append(torch.where((nearest[nearest[i]] == image).any(dim=2), nearest[i], -1))
    return torch.cat(sets)


def expanded_sets(own: Tensor, half: Tensor, number: int) -> Tensor:
    """Reciprocal sets, joined by those of their members that share more than two thirds of theirs.

    own       (C, K) reciprocal set of each image, -1 for none
    half      (N, H) reciprocal sets for k1 / 2 of all images, -1 for none
    returns   (C, N) bool
    """
    theirs = torch.where(own[..., None] >= 0, half[own.clamp(min=0)], -1)                     # (C, K, H)
    shared = ((theirs[..., None] == own[:, None, None]).any(dim=3) & (theirs >= 0)).sum(dim=2)
    joins = 3 * shared > 2 * (theirs >= 0).sum(dim=2)                                         # (C, K)
    images = torch.cat([own, torch.where(joins[..., None], theirs, -1).flatten(1)], dim=1)
    member = torch.zeros(len(own), number + 1, dtype=torch.bool, device=own.device)
    return member.scatter_(1, torch.where(images >= 0, images, number), True)[:, :number]     # the last column: none


def runs(start: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers start[i] .. start[i] + size[i] - 1 for every i in turn: (M,) which i, (M,) the number."""
    owner = torch.arange(len(size), device=size.device).repeat_interleave(size)
    first = size.cumsum(0) - size
    return owner, start[owner] + torch.arange(len(owner), device=size.device) - first[owner]


def average(
    row: Tensor, column: Tensor, value: Tensor, nearest: Tensor, chunk_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Local query expansion: each row of the sparse encodings becomes the mean over its neighbours.

    row, column, value   the entries of (N, N) encodings, sorted by row
    nearest              (N, k2)
    returns              the entries of the means, sorted by row
    """
    number, k2 = nearest.shape
    size = torch.bincount(row, minlength=number)
    start = size.cumsum(0) - size
    means = []
    for i in chunks(number, 64 * k2 * max(1, int(size.max())), chunk_bytes):
        neighbour = nearest[i].flatten()
        owner, entry = runs(start[neighbour], size[neighbour])
        place, slot = (owner // k2 * number + column[entry]).unique(return_inverse=True)
        mean = torch.zeros(len(place), device=value.device).index_add_(0, slot, value[entry] / k2)
        means.append((place // number + i.start, place % number, mean))
    rows, columns, values = map(torch.cat, zip(*means))
    return rows, columns, values


def overlaps(
    row: Tensor, column: Tensor, value: Tensor, queries: int, gallery: int, chunk_bytes: int
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the queries, with the sum over columns of the smaller of query's and gallery entry's encoding.

    row, column, value   sparse (N, N) encodings, sorted by row; the first `queries` rows are the queries'
    yields               slice, (C, gallery)

    Works through an inverted index, as encodings share few columns: each entry of a query meets the gallery's
    entries in the same column.
    """
    of_query = row < queries
    order = column[~of_query].argsort(stable=True)
    gallery_row, gallery_value = row[~of_query][order] - queries, value[~of_query][order]
    size = torch.bincount(column[~of_query], minlength=queries + gallery)
    start = size.cumsum(0) - size
    row, column, value = row[of_query], column[of_query], value[of_query]
    meetings = size.new_zeros(queries).index_add_(0, row, size[column])  # of each query
    bytes_per_row = 16 * gallery + 64 * int(meetings.max())
    for i in chunks(queries, bytes_per_row, chunk_bytes):
        first, last = torch.searchsorted(row, torch.tensor([i.start, i.stop], device=row.device)).tolist()
        entry, other = runs(start[column[first:last]], size[column[first:last]])
        entry += first
        shared = torch.zeros((i.stop - i.start) * gallery, device=row.device)
        shared.index_add_(
            0, (row[entry] - i.start) * gallery + gallery_row[other], torch.minimum(value[entry], gallery_value[other])
        )
        yield i, shared.view(-1, gallery)
