from torch import Tensor, nn

from losses.labels import centers, distances, masked_mean, pairwise_distances, same_identity


class QuadrupleCenterTripletLoss(nn.Module):
    """MSCMNet's QCT: rows near their identity's centre in the other modality, away from the centres of others.

    Half the sum of the mean distance to the former, over rows whose identity is seen in both modalities, and of the
    mean by which the distance to the latter falls short of the margin, over a row's others, then over rows. Centres
    are of all views; those of others are of both modalities. With one identity there is nothing to stay away from.

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool
    returns   scalar
    """

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        same = same_identity(labels)
        crosswise = same & (infrared[:, None] != infrared[None, :])                     # (N, N)
        pull = masked_mean(distances(features, centers(features, crosswise)), crosswise.any(dim=1))
        short = (self.margin - pairwise_distances(features, centers(features, same))).relu()  # (N, N), row to centre
        return (pull + masked_mean(short, ~same).mean()) / 2
