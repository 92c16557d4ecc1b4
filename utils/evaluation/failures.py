"""Where a protocol's queries fail: by person, by pair of cameras, who is taken for whom, in galleries of any size."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.evaluation.distances import BIN_WIDTH, BINS, described, of_unit_length
from utils.evaluation.evaluator import BLOCK_BYTES
from utils.evaluation.metrics import IGNORED, inner_products, ranking_keys
from utils.evaluation.protocol import AnyProtocol

BYTES_PER_ENTRY = 60  # held at once for one similarity


@dataclass(frozen=True)
class Searches:
    """What each valid query found in each trial; a search is a query in a trial.

    trial     (S,)  number of the trial, ascending
    query     (S,)  row of the query, ascending within a trial
    first     (S,)  row of the gallery image in the first place
    right     (S,)  row of the first image of the query's person
    place     (S,)  its place, from 1, among images
    ap        (S,)  average precision
    sizes     (N,)  numbers of gallery images, and
    rank1     (N,)  mean Rank-1 in random galleries of so many images that show the query's person (`rank1_by_size`)
    cameras   {(query's camera, gallery's camera): (searches, hits at rank 1 where that camera is the whole gallery)}
    """

    trial: np.ndarray
    query: np.ndarray
    first: np.ndarray
    right: np.ndarray
    place: np.ndarray
    ap: np.ndarray
    sizes: np.ndarray
    rank1: np.ndarray
    cameras: dict[tuple[int, int], tuple[int, int]]

    @property
    def hit(self) -> np.ndarray:
        return self.place == 1


@torch.inference_mode()
def search_all(
    features: Tensor, identities: Sequence[int], cameras: Sequence[int], protocol: AnyProtocol,
    similarities: Callable, block_bytes: int = BLOCK_BYTES,
) -> Searches:
    """Every search of a protocol.

    features       (N, E) embeddings, weighed
    identities     (N,), as `cameras`
    protocol       as in `evaluate_protocol`
    similarities   what ranks, of `similarities_by`
    """
    device = features.device
    who, where, ignores, group = (
        torch.as_tensor(np.asarray(x), device=device)
        for x in (identities, cameras, protocol.query_ignores, protocol.gallery_group)
    )
    sizes = gallery_sizes(min(len(trial.gallery) for trial in protocol.trials))
    parts: dict[int, list[list[np.ndarray]]] = {}
    by_size = torch.zeros(len(sizes), dtype=torch.float64)
    counts: Counter[tuple[str, int, int]] = Counter()
    for number, rows, similarity in similarities(features, protocol.trials, None, block_bytes):
        gallery = torch.as_tensor(protocol.trials[number].gallery, device=device)
        step = max(1, block_bytes // (BYTES_PER_ENTRY * len(gallery)))
        for i in range(0, len(rows), step):
            query = torch.as_tensor(rows[i:i + step], device=device)
            ignored = ignores[query, None] == group[gallery]
            keys = ranking_keys(similarity[i:i + step]).masked_fill_(ignored, IGNORED)
            valid = ((who[query, None] == who[gallery]) & ~ignored).any(dim=1)
            query, keys, ignored = query[valid], keys[valid], ignored[valid]
            order = keys.argsort(dim=1)
            ranked = gallery[order]                                                   # (Q, G)
            kept = (~ignored).sum(dim=1)
            right = (who[ranked] == who[query, None]) & (torch.arange(len(gallery), device=device) < kept[:, None])
            place = right.int().argmax(dim=1)
            precision = right.cumsum(dim=1) / torch.arange(1, len(gallery) + 1, device=device, dtype=torch.float64)
            ap = (precision * right).sum(dim=1) / right.sum(dim=1)
            found = (query, ranked[:, 0], ranked.gather(1, place[:, None])[:, 0], place + 1, ap)
            parts.setdefault(number, []).append([x.cpu().numpy() for x in found])
            by_size += rank1_by_size(right.cpu(), kept.cpu(), sizes).sum(dim=0)
            count_cameras(counts, keys, who[query], who[gallery], where[query], where[gallery])
    columns = zip(*(part for number in sorted(parts) for part in parts[number]))
    trial = np.concatenate([[number] * len(part[0]) for number in sorted(parts) for part in parts[number]])
    pairs = {(by, of): (counts["searches", by, of], counts["hits", by, of]) for _, by, of in sorted(counts)}
    by_query = {name: np.concatenate(x) for name, x in zip(("query", "first", "right", "place", "ap"), columns)}
    return Searches(
        trial, **by_query, sizes=sizes.numpy(), rank1=(by_size / len(trial)).numpy(), cameras=pairs
    )


def gallery_sizes(largest: int) -> Tensor:
    """1, 2, 5, 10, 20, 50, ... below `largest`, and `largest`."""
    steps = [digit * 10 ** power for power in range(7) for digit in (1, 2, 5)]
    return torch.tensor([size for size in steps if 1 < size < largest] + [largest])


def rank1_by_size(right: Tensor, kept: Tensor, sizes: Tensor) -> Tensor:
    """The chance that a query's person comes first in a random gallery of so many of its images, given that the
    person is in it: exact, by counting the galleries.

    right     (Q, G) bool, images in ranked order that show the query's person; one at least of each query
    kept      (Q,) images that the query doesn't ignore; the first ones of a row
    sizes     (N,) where a query keeps fewer, all of these
    returns   (Q, N) float64
    """
    def log_choose(n: Tensor, k: Tensor) -> Tensor:
        n, k = torch.broadcast_tensors(n.double(), k.double())
        found = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp(min=0) + 1)
        return torch.where(k <= n, found, -torch.inf)

    drawn = torch.minimum(sizes, kept[:, None])                                       # (Q, N)
    every = log_choose(kept[:, None], drawn)
    absent = (log_choose((kept - right.sum(dim=1))[:, None], drawn) - every).exp()
    row, place = right.nonzero(as_tuple=True)                                         # place: images that are better
    first = log_choose((kept[row] - place - 1)[:, None], drawn[row] - 1) - every[row]  # drawn, and none of the better
    return torch.zeros_like(every).index_add_(0, row, first.exp()) / (1 - absent)


def count_cameras(
    counts: Counter[tuple[str, int, int]], keys: Tensor, asked: Tensor, shown: Tensor, by: Tensor, of: Tensor
) -> None:
    """Add the searches in the images of each gallery camera alone, and those whose first image is right.

    keys           (Q, G) of `ranking_keys`, IGNORED where a query ignores an image
    asked, shown   (Q,) and (G,) identities
    by, of         (Q,) and (G,) cameras
    """
    for camera in of.unique():
        columns = (of == camera).nonzero().flatten()
        best, first = keys[:, columns].min(dim=1)
        there = ((shown[columns] == asked[:, None]) & (keys[:, columns] != IGNORED)).any(dim=1) & (best != IGNORED)
        hit = there & (shown[columns][first] == asked)
        for own in by[there].unique():
            mine = there & (by == own)
            counts["searches", int(own), int(camera)] += int(mine.sum())
            counts["hits", int(own), int(camera)] += int((hit & mine).sum())


def by_identity(searches: Searches, identities: Sequence[int]) -> list[dict]:
    """Of each person, the one that is found least first: identity, searches, Rank-1, mAP, and for whom they are taken
    most often (None: never)."""
    who = np.asarray(identities)
    asked, first = who[searches.query], who[searches.first]
    people = []
    for identity in np.unique(asked).tolist():
        mine = asked == identity
        wrong = Counter(first[mine & ~searches.hit].tolist())
        people.append({
            "identity": identity, "searches": int(mine.sum()), "rank1": float(searches.hit[mine].mean()),
            "mAP": float(searches.ap[mine].mean()), "taken_for": wrong.most_common(1)[0][0] if wrong else None,
        })
    return sorted(people, key=lambda person: (person["rank1"], person["mAP"], person["identity"]))


def confused_pairs(searches: Searches, identities: Sequence[int], number: int) -> list[dict]:
    """The pairs of people who are taken for one another most often: {"people", "wrong" searches of either that have the
    other first, "searches" of both, "example": one search's place in `searches`}."""
    who = np.asarray(identities)
    asked, first = who[searches.query], who[searches.first]
    wrong = np.flatnonzero(~searches.hit)
    pairs = [tuple(sorted(pair)) for pair in zip(asked[wrong].tolist(), first[wrong].tolist())]
    of_person, found = Counter(asked.tolist()), []
    for pair, times in sorted(Counter(pairs).items(), key=lambda item: (-item[1], item[0]))[:number]:
        worst = max((place for place, other in zip(wrong, pairs) if other == pair), key=lambda i: searches.place[i])
        found.append({
            "people": pair, "wrong": times, "searches": of_person[pair[0]] + of_person[pair[1]], "example": int(worst),
        })
    return found


def differences(a: Searches, b: Searches) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Two networks on the same searches: shares of them that {"both", "a", "b", "neither"} have right at rank 1; the
    queries' rows, and of each B's average precision less A's, mean over its searches.

    raises   ValueError where the searches are others
    """
    if not (np.array_equal(a.trial, b.trial) and np.array_equal(a.query, b.query)):
        raise ValueError("the two networks did not search for the same queries")
    shares = {
        "both": a.hit & b.hit, "a": a.hit & ~b.hit, "b": ~a.hit & b.hit, "neither": ~a.hit & ~b.hit,
    }
    rows, owner = np.unique(a.query, return_inverse=True)
    gain = np.bincount(owner, b.ap - a.ap) / np.bincount(owner)
    return {name: float(share.mean()) for name, share in shares.items()}, rows, gain


def agreement(a: Searches, b: Searches) -> float:
    """The correlation of two networks' hits at rank 1 over the same searches; nan where one has all or none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(a.hit, b.hit)[0, 1])


@torch.inference_mode()
def pair_distances(
    features: Tensor, identities: Sequence[int], protocol: AnyProtocol, block_bytes: int = BLOCK_BYTES
) -> tuple[dict, dict]:
    """Cosine distances of queries to the images that they don't ignore in the first gallery: of the same identity and
    of other ones (`utils.evaluation.distances.described`)."""
    trial, device = protocol.trials[0], features.device
    query, gallery = (of_unit_length(features[rows].clone()) for rows in (trial.query, trial.gallery))
    who, ignores, group = (
        torch.as_tensor(np.asarray(x), device=device)
        for x in (identities, protocol.query_ignores, protocol.gallery_group)
    )
    counts = torch.zeros(2, BINS, dtype=torch.int64, device=device)  # other identities, the same
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    step = max(1, block_bytes // (BYTES_PER_ENTRY * len(gallery)))
    for i in range(0, len(query), step):
        rows = trial.query[i:i + step]
        distance = 1 - inner_products(query[i:i + step], gallery)
        kept = ignores[rows, None] != group[trial.gallery]
        same = who[rows, None] == who[trial.gallery]
        for part, mask in enumerate((kept & ~same, kept & same)):
            found = distance[mask]
            counts[part] += (found / BIN_WIDTH).int().clamp_(0, BINS - 1).bincount(minlength=BINS)
            sums[part] += found.sum(dtype=torch.float64)
    counts, sums = counts.cpu(), sums.cpu()
    return described(counts[1], sums[1]), described(counts[0], sums[0])
