"""Similarities, identities and an ignore mask -> CMC, mAP and mINP (docs/protocols.md, section Metrics).

Pure tensor functions on any device. Every gallery entry becomes one int64 key: its similarity above, its place in
the gallery below. Keys are distinct, so ties are broken by gallery order whatever the sort, and ranks are counts of
smaller keys: integers, equal on every device and for every chunk size.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from common.words import how_many

RANKS = 20                             # CMC is reported up to here
IGNORED = torch.iinfo(torch.int64).max  # the key of an entry that does not take part: after every other
BYTES_PER_ENTRY = 40                   # what rank_queries holds at once for one similarity
CHUNK_BYTES = {"cpu": 8 << 20}         # on the CPU, what the second-level cache holds is fastest
DEFAULT_CHUNK_BYTES = 512 << 20


@dataclass(frozen=True)
class QueryFigures:
    """What a ranking says of each query, on the CPU.

    rank     (Q,) int64    place of the first match, from 1, by the CMC rule; 0 where invalid
    ap       (Q,) float64  average precision; nan where invalid
    inp      (Q,) float64  inverse negative penalty; nan where invalid
    valid    (Q,) bool     the query's identity is in the gallery that it keeps
    """

    rank: Tensor
    ap: Tensor
    inp: Tensor
    valid: Tensor

    @staticmethod
    def concatenate(parts: list["QueryFigures"]) -> "QueryFigures":
        return QueryFigures(*(torch.cat([getattr(p, name) for p in parts]) for name in ("rank", "ap", "inp", "valid")))


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions in true float32: neither TF32 nor half, whatever the caller has set."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """(A, E) and (B, E) float32 -> (A, B) float32, never in TF32 or half precision."""
    with full_float32(a.device):
        return a @ b.T


def ranking_keys(similarity: Tensor) -> Tensor:
    """Distinct keys that sort a row by descending similarity, then by column.

    similarity   (Q, G) float32 without nan
    returns      (Q, G) int64: the smaller, the better
    """
    bits = (0 - similarity).view(torch.int32)  # 0 - x also makes -0.0 and 0.0 the same
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # a float's bits, negative ones reversed, sort as the float does
    return ascending.long().mul_(2**32).add_(torch.arange(similarity.shape[1], device=similarity.device))


def sort_rows(keys: Tensor) -> Tensor:
    """Each row ascending; may sort in place."""
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)  # values alone, vectorised: five times as fast as torch.sort on two cores
        return keys
    return keys.sort(dim=1).values


def rank_queries(
    similarity: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    ignored: Tensor | None = None,
    counts: str = "identities",
    chunk_bytes: int | None = None,
) -> QueryFigures:
    """Rank the gallery for every query, some queries at a time.

    similarity    (Q, G) float32, higher is better; ties go to the earlier gallery entry
    query_ids     (Q,) int64
    gallery_ids   (G,) int64
    ignored       (Q, G) bool: entries that are taken out of the query's ranking; None ignores nothing
    counts        what CMC counts: "identities" (each at its first appearance) or "images"
    chunk_bytes   working memory of each thread beside the arguments; the result does not depend on it
    raises        ValueError
    """
    if similarity.dtype != torch.float32:
        raise ValueError(f"similarities must be float32, not {similarity.dtype}")
    if similarity.ndim != 2 or similarity.shape != (len(query_ids), len(gallery_ids)):
        raise ValueError(
            f"{how_many(len(query_ids), 'query', 'queries')} and "
            f"{how_many(len(gallery_ids), 'gallery entry', 'gallery entries')} "
            f"do not fit similarities of shape {tuple(similarity.shape)}"
        )
    if ignored is not None and ignored.shape != similarity.shape:
        raise ValueError(f"ignored is {tuple(ignored.shape)}, the similarities are {tuple(similarity.shape)}")
    if counts not in ("identities", "images"):
        raise ValueError(f"CMC counts 'identities' or 'images', not {counts!r}")
    if similarity.numel() == 0:
        raise ValueError(f"nothing to rank: {similarity.shape[0]} queries, {similarity.shape[1]} gallery entries")

    gallery = Gallery(gallery_ids.to(similarity.device))
    query_ids = query_ids.to(similarity.device)
    chunk_bytes = chunk_bytes or CHUNK_BYTES.get(similarity.device.type, DEFAULT_CHUNK_BYTES)
    step = max(1, chunk_bytes // (BYTES_PER_ENTRY * similarity.shape[1]))

    def rank_from(i: int) -> QueryFigures:
        chunk_ignored = None if ignored is None else ignored[i:i + step]
        return rank_chunk(similarity[i:i + step], query_ids[i:i + step], gallery, chunk_ignored, counts, first_query=i)

    starts = range(0, len(similarity), step)
    threads = min(torch.get_num_threads(), len(starts)) if similarity.device.type == "cpu" else 1
    return QueryFigures.concatenate(side_by_side(rank_from, starts, threads))


def side_by_side(function: Callable, arguments: Iterable, threads: int) -> list:
    """[function(a) for a in arguments], each call on one of `threads` threads and, inside torch, on that one alone.

    Whole chunks side by side keep the cores busier than torch's own threads, which meet after every small operation
    and, on a machine that is shared, wait for each other there.
    """
    if threads == 1:
        return [function(argument) for argument in arguments]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, arguments))
    finally:
        torch.set_num_threads(before)  # new threads would else start with one


class Gallery:
    """The columns of each identity.

    label    (G,) identity numbered 0..I-1
    order    (G,) columns by identity, then by place in the gallery
    start    (I,) where an identity begins in `order`
    size     (I,) its number of columns
    """

    def __init__(self, ids: Tensor):
        self.ids, self.label, self.size = ids.unique(return_inverse=True, return_counts=True)
        self.order = self.label.argsort(stable=True)
        self.start = self.size.cumsum(0) - self.size
        self.largest = int(self.size.max())

    def columns_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(Q,) identities -> (Q, largest) columns that hold them, and (Q, largest) bool: not just padding."""
        label = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        size = torch.where(self.ids[label] == ids, self.size[label], 0)
        slot = torch.arange(self.largest, device=ids.device)
        columns = self.order[(self.start[label, None] + slot).clamp(max=len(self.order) - 1)]
        return columns, slot < size[:, None]


def rank_chunk(
    similarity: Tensor, query_ids: Tensor, gallery: Gallery, ignored: Tensor | None, counts: str, first_query: int
) -> QueryFigures:
    """`rank_queries` of a few rows, the first of which is query number `first_query`."""
    if similarity.amax().isnan():  # amax passes nan on
        row, column = similarity.isnan().nonzero()[0].tolist()
        raise ValueError(f"the similarity of query {first_query + row} and gallery entry {column} is nan")
    keys = ranking_keys(similarity)
    if ignored is not None:
        keys.masked_fill_(ignored, IGNORED)
    columns, present = gallery.columns_of(query_ids)
    relevant = keys.gather(1, columns).masked_fill_(~present, IGNORED).sort(dim=1).values  # (Q, R), best first
    if counts == "identities":
        best = keys.new_full((len(keys), len(gallery.ids)), IGNORED)
        best.scatter_reduce_(1, gallery.label.expand_as(keys), keys, "amin")               # (Q, I)
        rank = (best < relevant[:, :1]).sum(dim=1) + 1
    position = torch.searchsorted(sort_rows(keys), relevant) + 1                           # (Q, R)
    if counts == "images":
        rank = position[:, 0]

    # Fractions are taken on the CPU, in float64: then they too are equal on every device.
    rank, position, kept = rank.cpu(), position.cpu(), (relevant < IGNORED).cpu()
    number = kept.sum(dim=1)
    valid = number > 0
    precision = torch.arange(1, kept.shape[1] + 1, dtype=torch.float64) / position
    last = position.gather(1, (number - 1).clamp(min=0)[:, None]).squeeze(1)
    return QueryFigures(
        rank=rank * valid,
        ap=(precision * kept).cumsum(dim=1)[:, -1] / number,  # in order: a sum's order may depend on the chunk
        inp=torch.where(valid, number.double() / last, torch.nan),
        valid=valid,
    )


def summarize(figures: QueryFigures) -> dict:
    """Figures of the queries -> {"cmc": [Rank-1 .. Rank-20], "mAP", "mINP", "valid_queries"}, as fractions.

    Queries whose identity is not in the gallery they keep count nowhere.

    raises   ValueError where no query is left
    """
    valid = figures.valid
    if not valid.any():
        raise ValueError(
            f"none of {how_many(len(valid), 'query', 'queries')} has its identity in the gallery that it keeps"
        )
    first = torch.bincount(figures.rank[valid].clamp(max=RANKS + 1), minlength=RANKS + 2)[1:RANKS + 1]
    number = int(valid.sum())
    return {
        "cmc": (first.cumsum(0).double() / number).tolist(),
        "mAP": figures.ap[valid].mean().item(),
        "mINP": figures.inp[valid].mean().item(),
        "valid_queries": number,
    }
