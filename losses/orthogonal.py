from torch import Tensor, nn

from losses.labels import full_precision


class OrthogonalLoss(nn.Module):
    """Branch diversity: the two branches should see different things in an image (docs/method.md section 7).

    first     (B, D) the images in branch 1, not normalised
    second    (B, D) the same images in branch 2
    returns   scalar: sum of the inner products, over 3 B, the number of embeddings of the batch
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (full_precision(first) * full_precision(second)).sum() / (3 * len(first))
