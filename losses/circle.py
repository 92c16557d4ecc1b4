import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.labels import full_precision, same_identity

ABSENT = -1e8  # in the place of a pair that is none: the exponential is 0, and a row without pairs has no loss


class CircleLoss(nn.Module):
    """Circle loss of cosine similarities, each row with all others (Sun et al., CVPR 2020).

    How far a pair is from its optimum weighs it, without gradient.

    margin    m: positives are drawn above 1 - m, negatives below m
    scale     γ
    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool, not read: positives and negatives are of both modalities
    returns   scalar, mean over rows; a row without positives or without negatives counts as 0
    """

    def __init__(self, margin: float, scale: float):
        super().__init__()
        self.margin, self.scale = margin, scale

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        unit = F.normalize(full_precision(features), dim=1)
        with torch.autocast(unit.device.type, enabled=False):
            similarity = unit @ unit.T                                                    # (N, N)
        m, alike = self.margin, same_identity(labels)
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive = -(1 + m - similarity).relu().detach() * (similarity - (1 - m))
        negative = (similarity + m).relu().detach() * (similarity - m)
        far = (self.scale * positive).masked_fill(~alike | itself, ABSENT).logsumexp(dim=1)
        near = (self.scale * negative).masked_fill(alike, ABSENT).logsumexp(dim=1)
        return F.softplus(far + near).mean()
