from torch import Tensor, nn

from losses.labels import centers, distances, same_identity


class ViewCenterLoss(nn.Module):
    """Rows near the centre of their identity in their own view of their own modality.

    MSCMNet's paper has it in its quadruple centre triplet loss; in its authors' code the weight is 0.

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool
    view      (N,)   which view of its image a row is
    returns   scalar, mean over rows
    """

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor, view: Tensor) -> Tensor:
        members = same_identity(labels) & (infrared[:, None] == infrared) & (view[:, None] == view)
        return distances(features, centers(features, members)).mean()
