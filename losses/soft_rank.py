"""Soft ranks, and the non-increasing sequence nearest to another one, of many lists at once."""

import math

import torch
from torch import Tensor


def soft_rank(values: Tensor, strength: float, listed: Tensor | None = None, spread: float = math.inf) -> Tensor:
    """Ranks from 1 for the smallest value, blurred so that they have a gradient (Blondel et al., ICML 2020, l2).

    With s = values / strength sorted descending, w = (G, ..., 1) and v the non-increasing sequence nearest to s - w in
    least squares, the ranks are s - v. v is constant within blocks, and of an upstream u the gradient is
    (u - its mean in the block) / strength.

    All is one block wherever the values of a list differ by strength · G / 2 at most, and then the ranks are
    s - mean s + (G + 1) / 2: of the k greatest, the mean of s - w exceeds that of the whole by (1 - k/G) · the
    values' spread - (G - k) / 2 at most. So only lists of fewer than 2 · spread / strength values are looked at for
    blocks. Nothing waits for the device.

    values     (N, L), a list a row
    listed     (N, L) bool: which values belong to their row's list, G of them; None: all
    spread     two values of a list differ by no more, as the caller knows
    returns    (N, L), 0 where not listed
    """
    listed = torch.ones_like(values, dtype=torch.bool) if listed is None else listed
    scaled, number = values / strength, listed.sum(dim=1, keepdim=True)                     # (N, L), (N, 1)
    mean = (scaled * listed).sum(dim=1, keepdim=True) / number.clamp(min=1)
    ranks = scaled - mean + (number + 1) / 2
    longest = min(values.shape[1], math.ceil(min(2 * spread / strength, values.shape[1] + 1)) - 1)
    if longest > 1:
        s, place = scaled.masked_fill(~listed, -math.inf).topk(longest, dim=1)              # (N, l), descending
        inside = torch.arange(longest, device=s.device) < number                            # (N, l)
        s = s.masked_fill(~inside, 0)
        w = number - torch.arange(longest, device=s.device)
        nearest = block_means(s - w, inside)
        blocked = ranks.scatter(1, place, torch.where(inside, s - nearest, 0))
        ranks = torch.where(number <= longest, blocked, ranks)
    return torch.where(listed, ranks, 0)


def block_means(values: Tensor, inside: Tensor) -> Tensor:
    """The non-increasing sequence nearest to each row in least squares, which is of means within blocks.

    values    (N, L)
    inside    (N, L) bool: a row's sequence, from its first value on; what comes after it is left out
    returns   (N, L), 0 after the sequence; its gradient is that of the means
    """
    with torch.no_grad():
        level = nonincreasing(values, inside)                                               # (N, L)
        together = (level[:, :, None] == level[:, None, :]) & inside[:, :, None] & inside[:, None, :]
        weight = together.to(values.dtype) / together.sum(dim=2, keepdim=True).clamp(min=1)
    return (weight @ values[:, :, None])[:, :, 0]


def nonincreasing(values: Tensor, inside: Tensor) -> Tensor:
    """What pooling adjacent violators leads to, written as v_i = min over a <= i of max over b >= i of mean(a..b).

    So that values of one block are equal to the last bit, each is one of the means. They come from sums in float64.
    """
    length = values.shape[1]
    sums = torch.cat([values.new_zeros(len(values), 1, dtype=torch.float64), values.double().cumsum(dim=1)], dim=1)
    first, last = torch.arange(length, device=values.device)[:, None], torch.arange(length, device=values.device)
    means = (sums[:, None, 1:] - sums[:, :-1, None]) / (last - first + 1).clamp(min=1)      # (N, a, b)
    means = means.masked_fill((last < first) | ~inside[:, None, :], -math.inf)
    best = means.flip(2).cummax(dim=2).values.flip(2)                                       # (N, a, i): over b >= i
    return best.masked_fill(first > last, math.inf).amin(dim=1)
