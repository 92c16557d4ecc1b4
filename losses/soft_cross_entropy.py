from torch import Tensor, nn

from losses.labels import full_precision


class SoftCrossEntropyLoss(nn.Module):
    """How badly logits say what other logits say, which are not trained by it: h(a | b) of SEFEL.

    logits    (N, classes)   a
    target    (N, classes)   b, logits too
    returns   scalar, mean over rows of -Σ softmax(b) · ln softmax(a)
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        wanted = full_precision(target.detach()).softmax(dim=1)
        return -(wanted * full_precision(logits).log_softmax(dim=1)).sum(dim=1).mean()
