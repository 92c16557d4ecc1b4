import torch
from torch import Tensor, nn

from losses.labels import centers, masked_mean, one_row_each, pairwise_distances, same_identity


class DCLLoss(nn.Module):
    """Centre contrast: how far a centre's own images lie from it, relative to the nearer of the other images.

    The centres are taken over both modalities. Of a centre's negatives only those closer than their mean
    distance count; where none is (all equally far), that mean itself does. With one identity, or where the negatives
    all coincide with the centres, there is nothing to compare with and the loss is 0 (docs/method.md section 7).

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool, not read
    returns   scalar: ratio of two means over identities
    """

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        same = same_identity(labels)
        distance = pairwise_distances(centers(features, same), features)      # (N, N), a row's centre to each image
        own = masked_mean(distance, same)                                     # (N,)

        mean_other = masked_mean(distance, ~same)                             # (N,)
        close = ~same & (distance < mean_other[:, None])
        other = torch.where(close.any(dim=1), masked_mean(distance, close), mean_other)

        counted = one_row_each(labels)
        own, other = masked_mean(own, counted), masked_mean(other, counted)
        return own * (other > 0) / other.clamp(min=1e-12)
