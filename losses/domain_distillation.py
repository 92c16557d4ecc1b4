from torch import Tensor, nn
from torch.nn import functional as F

from losses.labels import full_precision
from losses.mutual_mean import MutualMeanLoss

IDENTITY = 0.25


class DomainDistillationLoss(nn.Module):
    """DNS's DD of one feature: what its modality's classifier says, and how far the other's mean classifier disagrees.

    own                (N, classes)   logits
    other              (N, classes)   logits, without gradient
    labels             (N,)           identity
    infrared           (N,)           bool
    returns            scalar: MPANet's divergence + 0.25 (cross entropy of visible rows + of infrared rows)
    """

    def __init__(self) -> None:
        super().__init__()
        self.divergence = MutualMeanLoss()

    def forward(self, own: Tensor, other: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        entropy = F.cross_entropy(full_precision(own), labels, reduction="none")                    # (N,)
        identity = sum((entropy * rows).sum() / rows.sum().clamp(min=1) for rows in (~infrared, infrared))
        return self.divergence(own, other) + IDENTITY * identity
