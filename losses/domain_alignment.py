from torch import Tensor, nn
from torch.nn import functional as F

from losses.labels import full_precision
from losses.mmd import MMDLoss

ACROSS, WITHIN = 0.45, 0.05


class DomainAlignmentLoss(nn.Module):
    """DNS's DA: MMD between the modalities, and of each modality between its features and the shifted ones.

    Rows have length 1.

    visible, infrared                   (N, D), (M, D)
    shifted_visible, shifted_infrared   (N, D), (M, D), or neither: then the first MMD is all there is
    returns                             scalar
    """

    def __init__(self) -> None:
        super().__init__()
        self.mmd = MMDLoss()

    def forward(
        self, visible: Tensor, infrared: Tensor, shifted_visible: Tensor | None = None,
        shifted_infrared: Tensor | None = None,
    ) -> Tensor:
        visible, infrared = of_length_one(visible), of_length_one(infrared)
        if shifted_visible is None or shifted_infrared is None:
            return ACROSS * self.mmd(visible, infrared)
        shifted_visible, shifted_infrared = of_length_one(shifted_visible), of_length_one(shifted_infrared)
        across = self.mmd(visible, infrared) + self.mmd(shifted_visible, shifted_infrared)
        within = self.mmd(visible, shifted_visible) + self.mmd(infrared, shifted_infrared)
        return ACROSS * across + WITHIN * within


def of_length_one(rows: Tensor) -> Tensor:
    return F.normalize(full_precision(rows), dim=1)
