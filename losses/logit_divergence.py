import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 3.0


class LogitDivergenceLoss(nn.Module):
    """CAJ's divergence of the visible logits from the infrared ones, which are not trained by it.

    T² · mean over rows of KL(q, softmax(visible / T)), q = softmax(infrared / T) + 1e-7, with T = 3. Row r of both is
    of one identity. In the authors' code its weight is 0.

    visible    (N, classes)   logits of the plain visible images
    infrared   (N, classes)
    returns    scalar
    """

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        target = (infrared.detach() / TEMPERATURE).softmax(dim=1) + 1e-7
        log_probability = (visible / TEMPERATURE).log_softmax(dim=1)
        return TEMPERATURE ** 2 * F.kl_div(log_probability, target, reduction="batchmean")
