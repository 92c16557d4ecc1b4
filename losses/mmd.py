from typing import cast

import torch
from torch import Tensor, nn

from losses.labels import full_precision, pairwise_distances

KERNELS = 5


class MMDLoss(nn.Module):
    """Maximum mean discrepancy of two sets of rows, by five Gaussian kernels of doubling widths.

    The widths follow the mean squared distance of all rows, without gradient (Long et al., ICML 2015). Each row is
    compared with itself, too.

    a         (N, D)
    b         (M, D)
    returns   scalar; 0 where all rows coincide
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        rows = torch.cat([full_precision(a), full_precision(b)])
        squared, number = pairwise_distances(rows, rows).square(), len(rows)
        width = squared.detach().sum() / (number ** 2 - number)
        width = torch.where(width > 0, width, 1)
        kernels = ((-squared / (width * 2.0 ** (i - KERNELS // 2))).exp() for i in range(KERNELS))
        kernel = cast(Tensor, sum(kernels))
        of_a, of_b = kernel.split([len(a), len(b)])
        (a_a, a_b), (b_a, b_b) = (part.split([len(a), len(b)], dim=1) for part in (of_a, of_b))
        return a_a.mean() + b_b.mean() - a_b.mean() - b_a.mean()
