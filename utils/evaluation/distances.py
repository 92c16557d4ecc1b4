"""How far apart embeddings lie, within and between identities, in one modality and across: the modality gap, counted.

The distance is the cosine distance 1 - a·b / (|a| |b|), from 0 to 2, which has one scale for every network. Every pair
of different images counts once.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.evaluation.evaluator import scaled
from utils.evaluation.metrics import inner_products

BIN_WIDTH = 0.005
BINS = 400          # of BIN_WIDTH each: from 0 to 2
BLOCK = 2048        # images on either side of the pairs that are held at once


@torch.inference_mode()
def distance_counts(
    features: Tensor,
    identities: Sequence[int] | np.ndarray,
    infrared: Sequence[bool] | np.ndarray,
    *,
    weighting: str,
    scale: Tensor | None = None,
    block: int = BLOCK,
) -> dict:
    """The distances of all pairs of images, counted in bins, in blocks of pairs.

    features     (N, E) float32 on the device that computes; a copy of them is held
    identities   (N,)
    infrared     (N,)
    weighting    of the scale; it stands beside the counts
    scale        (E,) factors of the embeddings' columns
    returns      {"weighting", "bin_width", "pairs": {"VIS-VIS", "IR-IR", "VIS-IR": {"within", "between", "overlap"}},
                  "modality_gap"}, ready for JSON; for "within" and "between" see `described`, for the others `overlap`
                  and `modality_gap`
    """
    who, of_infrared = (torch.as_tensor(x, device=features.device) for x in (identities, infrared))
    sides = {
        name: (of_unit_length(scaled(features[rows], scale)), who[rows])
        for name, rows in (("VIS", ~of_infrared), ("IR", of_infrared))
    }
    pairs = {}
    for a, b in (("VIS", "VIS"), ("IR", "IR"), ("VIS", "IR")):
        within, between = count_pairs(sides[a], sides[b], once=a == b, block=block)
        pairs[f"{a}-{b}"] = {"within": within, "between": between, "overlap": overlap(within, between)}
    return {"weighting": weighting, "bin_width": BIN_WIDTH, "pairs": pairs, "modality_gap": modality_gap(pairs)}


def of_unit_length(rows: Tensor) -> Tensor:
    """In place; a row of zeros stays one, at distance 1 from every other."""
    return rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny))


def count_pairs(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], once: bool, block: int) -> tuple[dict, dict]:
    """The pairs within identities and those between them (`described`).

    a, b   (A, E) of unit length and (A,) identities; (B, E) and (B,)
    once   a is b: take each pair once, and none of an image with itself
    """
    device = a[0].device
    counts = torch.zeros(2, BINS, dtype=torch.int64, device=device)  # all pairs, those within
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for i in range(0, len(a[0]), block):
        for j in range(i if once else 0, len(b[0]), block):
            distance = 1 - inner_products(a[0][i:i + block], b[0][j:j + block])
            same = a[1][i:i + block, None] == b[1][j:j + block]
            if once and i == j:
                above = torch.ones_like(same).triu(diagonal=1)
                distance, same = distance[above], same[above]
            for row, part in enumerate((distance.flatten(), distance[same])):
                bins = (part / BIN_WIDTH).int().clamp_(0, BINS - 1)  # rounding may leave 0 to 2
                counts[row] += bins.bincount(minlength=BINS)
                sums[row] += part.sum(dtype=torch.float64)
    counts, sums = counts.cpu(), sums.cpu()
    return described(counts[1], sums[1]), described(counts[0] - counts[1], sums[0] - sums[1])


def described(counts: Tensor, total: Tensor) -> dict:
    """{"number" of pairs, "mean" distance (None of no pair), "first_bin" that has any, "counts" from there on}."""
    number, occupied = int(counts.sum()), counts.nonzero().flatten().tolist() or [0]
    return {
        "number": number,
        "mean": float(total) / number if number else None,
        "first_bin": occupied[0],
        "counts": counts[occupied[0]:occupied[-1] + 1].tolist(),
    }


def shares(part: dict) -> Tensor:
    """(BINS,) float64: the share of a part's pairs (`described`) in each bin."""
    counts = torch.zeros(BINS, dtype=torch.float64)
    counts[part["first_bin"]:part["first_bin"] + len(part["counts"])] = torch.tensor(part["counts"]).double()
    return counts / max(1, part["number"])


def overlap(within: dict, between: dict) -> float | None:
    """The area that the two histograms share, each of area 1: 0 where they are apart, 1 where they are the same."""
    if not within["number"] or not between["number"]:
        return None
    return torch.minimum(shares(within), shares(between)).sum().item()


def modality_gap(pairs: dict) -> float | None:
    """How much farther apart a person's images are across modalities: mean distance within identities of VIS-IR less
    the mean of those of VIS-VIS and IR-IR. 0: it doesn't matter which modality shows a person."""
    across, *alone = (pairs[name]["within"]["mean"] for name in ("VIS-IR", "VIS-VIS", "IR-IR"))
    return None if None in (across, *alone) else across - sum(alone) / 2
