import torch
from torch import Tensor, nn

from losses.labels import pairwise_distances, same_identity


class TripletLoss(nn.Module):
    """Batch-hard triplet: each row's farthest positive should be nearer than its nearest negative, by the margin.

    Euclidean distances of the features as they come, not normalised; the modality makes no difference
    (docs/method.md section 7). A row is its own positive at distance 0, which counts only where it has no other.
    With one identity there are no negatives and the loss is 0.

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool, not read
    returns   scalar, mean over rows
    """

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        same = same_identity(labels)
        distance = pairwise_distances(features, features)                # (N, N)
        farthest = distance.masked_fill(~same, -torch.inf).amax(dim=1)
        nearest = distance.masked_fill(same, torch.inf).amin(dim=1)
        return (farthest - nearest + self.margin).relu().mean()
