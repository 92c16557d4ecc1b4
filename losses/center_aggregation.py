import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.labels import one_row_each, same_identity


class CenterAggregationLoss(nn.Module):
    """MCLNet's MCCA: rows of a class are about as far from its fixed centre as the nearest of them, and centres apart.

    distance  (N,)  squared, of each row to its class's centre
    gap       (N,)  squared, of that centre to the nearest other one; as centres are fixed, a number without gradient
    labels    (N,)  class
    returns   scalar

    near      by how much the mean distance may exceed the nearest row's
    apart     what a gap should be
    rows      m, by which a class's nearest distance counts; 0: by the number of its rows
    """

    def __init__(self, near: float = 8.0, apart: float = 4500.0, rows: int = 0):
        super().__init__()
        self.near, self.apart, self.rows = near, apart, rows

    def forward(self, distance: Tensor, gap: Tensor, labels: Tensor) -> Tensor:
        same = same_identity(labels)
        nearest = distance.expand(same.shape).masked_fill(~same, torch.inf).amin(dim=1)         # (N,): of its class
        if self.rows:
            nearest = self.rows * nearest * one_row_each(labels)
        return F.relu((distance.sum() - nearest.sum()) / len(labels) - self.near) + F.relu(self.apart - gap.mean())
