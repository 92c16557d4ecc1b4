import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.weighted_triplet import weighted_distances

LARGEST = 88.0  # e to this is still a float32


class SquaredDifferenceLoss(nn.Module):
    """CAJ's enhanced squared difference (Ye et al., ICCV 2021): the weighted triplet of the signed squared difference.

    log(1 + e^(±difference²)) with the difference's sign; beyond a square of 88 a row has no gradient, as in the
    authors' code.

    features    (N, D) of all streams together
    labels      (N,)   identity
    infrared    (N,)   bool, not read
    returns     scalar, mean over rows

    sharpness   factor of the distances in the weights' exponents
    scale       factor of the squared difference
    square      False leaves the difference as it is, neither squared nor cut off
    """

    def __init__(self, sharpness: float = 1.0, scale: float = 1.0, square: bool = True):
        super().__init__()
        self.sharpness, self.scale, self.square = sharpness, scale, square

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        positive, negative = weighted_distances(features, labels, self.sharpness)
        difference = positive - negative
        if self.square:
            sign = torch.where(difference > 0, 1.0, -1.0)
            return F.softplus(sign * (self.scale * difference.square()).clamp(max=LARGEST)).mean()
        return F.softplus(self.scale * difference).mean()
