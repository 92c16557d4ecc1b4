import torch
from torch import Tensor, nn

from losses.labels import full_precision


class ColumnOverlapLoss(nn.Module):
    """SEFEL's orthogonality: how far columns are from being orthogonal.

    columns   (D, d), of length 1 each
    returns   scalar: Σ_j |inner product of i and j - (i = j)|, mean over columns i
    """

    def forward(self, columns: Tensor) -> Tensor:
        columns = full_precision(columns)
        products = columns.T @ columns
        return (products - torch.eye(len(products), dtype=products.dtype, device=products.device)).abs().sum(0).mean()
