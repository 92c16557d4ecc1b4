from torch import Tensor, nn

from losses.labels import full_precision


class ModalityConfusionLoss(nn.Module):
    """MCLNet's: a discriminator should find each row as likely visible as infrared.

    judged   (N, 2)  its logits
    returns  scalar, cross entropy with (½, ½), mean over rows; ln 2 at least
    """

    def forward(self, judged: Tensor) -> Tensor:
        return -full_precision(judged).log_softmax(dim=1).mean()
