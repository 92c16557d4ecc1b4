import torch
from torch import Tensor, nn

from losses.labels import centers, distances, masked_mean, one_row_each, pairwise_distances, same_identity


class CPMLoss(nn.Module):
    """Cross-modal centre alignment between the plain embedding and one branch (docs/method.md section 7).

    A centre should lie nearer to its own identity's centre in the other modality and embedding than, by the margin,
    the same modality's centre in the other embedding does (which is held fixed), and than other identities' centres do.
    Identities seen in one modality only have no gap to close: they are left out, also as neighbours of others. With
    one identity the terms with neighbours are 0.

    plain     (B, D)
    branch    (B, D) the same images, in one branch
    labels    (B,)   identity
    infrared  (B,)   bool
    returns   scalar, mean over identities
    """

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin

    def forward(self, plain: Tensor, branch: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        same = same_identity(labels)
        in_visible, in_infrared = same & ~infrared, same & infrared  # (B, B): whose mean is a row's centre
        in_both = in_visible.any(dim=1) & in_infrared.any(dim=1)
        others = ~same & in_both                                     # (B, B)
        counted = one_row_each(labels) & in_both

        def nearest(x: Tensor) -> Tensor:
            """Distance to the nearest centre of another identity, infinite if there is none."""
            return pairwise_distances(x, x).masked_fill(~others, torch.inf).amin(dim=1)

        def hinge(negative: Tensor, positive: Tensor) -> Tensor:
            return masked_mean((positive - negative + self.margin).relu(), counted)

        visible, thermal = centers(plain, in_visible), centers(plain, in_infrared)                   # a, b
        branch_visible, branch_thermal = centers(branch, in_visible), centers(branch, in_infrared)   # a', b'

        gap = distances(thermal, branch_visible)
        loss_visible = hinge(distances(visible, branch_visible).detach(), gap) \
            + (hinge(nearest(branch_visible), gap) + hinge(nearest(visible), gap)) / 2

        gap = distances(visible, branch_thermal)
        loss_thermal = hinge(distances(thermal, branch_thermal).detach(), gap) \
            + (hinge(nearest(branch_thermal), gap) + hinge(nearest(thermal), gap)) / 2

        return (loss_visible + loss_thermal) / 2
