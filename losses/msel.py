import torch
from torch import Tensor, nn

from losses.labels import masked_mean, pairwise_distances, same_identity


class MSELLoss(nn.Module):
    """Modality-shared enhancement: a row is as far from its identity in the other modality as in its own.

    (Lu et al., AAAI 2023.) The squared difference of two mean distances: to the other rows of its identity and
    modality, and to those of its identity in the other modality. A row that lacks either is not counted; where no row
    of a modality is counted, that modality's mean is 0.

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool
    returns   scalar: mean of the two modalities' means over rows
    """

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        distance = pairwise_distances(features, features)                       # (N, N)
        same, alike = same_identity(labels), infrared[:, None] == infrared[None, :]
        within = same & alike & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        across = same & ~alike
        gap = (masked_mean(distance, across) - masked_mean(distance, within)).square()  # (N,)
        counted = within.any(dim=1) & across.any(dim=1)
        return (masked_mean(gap, counted & ~infrared) + masked_mean(gap, counted & infrared)) / 2
