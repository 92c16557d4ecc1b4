import torch.nn.functional as F
from torch import Tensor, nn

from losses.labels import full_precision
from losses.soft_cross_entropy import SoftCrossEntropyLoss


class MutualLoss(nn.Module):
    """SEFEL's mutual learning: each modality's logits say what those of its pair in the other say. Of a pair neither
    side is a target and trained at once.

    Row r of both is of one identity. With shapes, each row learns as well from the row of its identity in the other
    modality whose body shape is least like its own, by cosine; that choice has no gradient.

    visible, infrared   (N, classes)   logits
    shapes              (N, d) of each, in the same order; None: pairs alone
    labels              (N,)           identity of a pair; read with shapes
    returns             scalar, sum of means over rows
    """

    def __init__(self) -> None:
        super().__init__()
        self.says = SoftCrossEntropyLoss()

    def forward(
        self, visible: Tensor, infrared: Tensor, shapes: tuple[Tensor, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        loss = self.says(visible, infrared) + self.says(infrared, visible)
        if shapes is None or labels is None:
            return loss
        of_visible, of_infrared = least_alike(*shapes, labels)
        return loss + self.says(visible, infrared[of_visible]) + self.says(infrared, visible[of_infrared])


def least_alike(visible: Tensor, infrared: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each visible row, which infrared one of its identity has the lowest cosine with it; and the other way round.

    visible, infrared   (N, d)
    labels              (N,)   identity of row r of both
    returns             (N,) int64 each
    """
    first, second = (F.normalize(full_precision(x.detach()), dim=1) for x in (visible, infrared))
    cosine = (first @ second.T).masked_fill(labels[:, None] != labels[None, :], 2.0)  # beyond every cosine
    return cosine.argmin(dim=1), cosine.argmin(dim=0)
