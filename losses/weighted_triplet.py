import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.labels import pairwise_distances, same_identity

LOWEST = torch.finfo(torch.float32).min


def weighted_distances(
    features: Tensor, labels: Tensor, sharpness: float = 1.0, softmax: bool = False
) -> tuple[Tensor, Tensor]:
    """Each row's distance to its own identity and to the others: weighted means, far positives and near negatives most.

    A row counts among its own positives. As in the authors' code the exponents of the negatives are not shifted and
    1e-6 is added to the sum of the weights: where all negatives are farther than about 18, their weights sum to less
    than 1 and the mean falls towards 0. Gradients run through the weights too.

    features    (N, D)
    labels      (N,)   identity
    sharpness   factor of the distances in the exponents
    softmax     shift the negatives' exponents too, so that their weights sum to 1 however far they are
    returns     (N,) and (N,)
    """
    same = same_identity(labels)
    distance = pairwise_distances(features, features).clamp(min=1e-6)
    exponent = sharpness * distance.masked_fill(~same, -torch.inf)
    positive = (exponent - exponent.amax(dim=1, keepdim=True)).exp()                  # (N, N), 0 for others
    exponent = -sharpness * distance.masked_fill(same, torch.inf)
    if softmax:
        exponent = exponent - exponent.amax(dim=1, keepdim=True).clamp(min=LOWEST)       # of no negatives it is -inf
    negative = exponent.exp()                                                            # (N, N), 0 for its own
    nearer, farther = ((w * distance).sum(dim=1) / (w.sum(dim=1) + 1e-6) for w in (positive, negative))
    return nearer, farther


class WeightedTripletLoss(nn.Module):
    """AGW's weighted regularised triplet, without a margin (Ye et al., TPAMI 2021): log(1 + e^(own - others)).

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool, not read
    returns   scalar, mean over rows

    softmax   as the paper writes the negatives' weights; not as the authors' code has them (`weighted_distances`)
    """

    def __init__(self, softmax: bool = False):
        super().__init__()
        self.softmax = softmax

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        positive, negative = weighted_distances(features, labels, softmax=self.softmax)
        return F.softplus(positive - negative).mean()
