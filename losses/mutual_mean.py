from torch import Tensor, nn
from torch.nn import functional as F

from losses.labels import full_precision


class MutualMeanLoss(nn.Module):
    """MPANet's divergence of what a row's own classifier says from what the other modality's mean classifier does.

    KL(softmax(own), softmax(other)); as in the authors' code, the trained side is the one that weighs.

    own       (N, classes)   logits
    other     (N, classes)   logits, without gradient
    returns   scalar, mean over rows
    """

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        target, log_probability = (full_precision(logits).log_softmax(dim=1) for logits in (own, other))
        return F.kl_div(log_probability, target, reduction="batchmean", log_target=True)
