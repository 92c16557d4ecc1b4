from torch import Tensor, nn

from losses.labels import centers, distances, masked_mean, one_row_each, pairwise_distances, same_identity


class CenterClusterLoss(nn.Module):
    """MPANet's centre cluster: rows near their identity's centre, centres apart by a margin.

    The centres are taken over both modalities. With one identity there is nothing to keep apart.

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool, not read
    returns   scalar: mean over rows, and mean over ordered pairs of identities
    """

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        same, first = same_identity(labels), one_row_each(labels)
        center = centers(features, same)                                     # (N, D), a row's own
        pull = distances(features, center).mean()
        apart = (self.margin - pairwise_distances(center, center)).relu()    # (N, N)
        pairs = ~same & first[:, None] & first[None, :]
        return pull + masked_mean(apart.flatten(), pairs.flatten())
