"""What the losses share: who belongs to whom, centres, distances.

Everything is masks over rows: no loop over identities, no number fetched from the device. What belongs to an identity
(its centre, the distance to its nearest other) stands in every row of that identity; `one_row_each` picks one of them
for a mean over identities.
"""

import torch
from torch import Tensor


def same_identity(labels: Tensor) -> Tensor:
    """(N,) labels -> (N, N) bool: rows i and j show one identity. Every row is its own partner."""
    return labels[:, None] == labels[None, :]


def one_row_each(labels: Tensor) -> Tensor:
    """(N,) labels -> (N,) bool: true in the first row of each identity."""
    return ~same_identity(labels).tril(-1).any(dim=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last dimension of the values where the mask is true; 0 where it is nowhere true."""
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


def full_precision(x: Tensor) -> Tensor:
    """float64 stays, all else becomes float32: half a mantissa is too short for differences of distances."""
    return x if x.dtype == torch.float64 else x.float()


def centers(features: Tensor, members: Tensor) -> Tensor:
    """Means of rows.

    features  (N, D)
    members   (M, N)  bool: which rows belong to centre m
    returns   (M, D)  0 for a centre without members
    """
    features = full_precision(features)
    with torch.autocast(features.device.type, enabled=False):
        return members.to(features.dtype) @ features / members.sum(dim=1, keepdim=True).clamp(min=1)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean, row by row: (N, D) and (N, D) -> (N,). The gradient where two rows coincide is 0."""
    return torch.linalg.vector_norm(full_precision(x) - full_precision(y), dim=1)


def pairwise_distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean, every row with every row: (N, D) and (M, D) -> (N, M). The gradient where two rows coincide is 0."""
    # |x|² + |y|² - 2xy, cdist's choice for many rows, cancels: in float32 near neighbours lose all their digits.
    return torch.cdist(full_precision(x), full_precision(y), compute_mode="donot_use_mm_for_euclid_dist")
