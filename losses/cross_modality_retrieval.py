import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.labels import full_precision, masked_mean, same_identity
from losses.soft_rank import soft_rank


class CrossModalityRetrievalLoss(nn.Module):
    """MCJA's CMR: soft ranks of the other modality's rows are those of a perfect retrieval.

    A row with both a same and another identity in the other modality is a query; its list are all G rows there, by
    cosine distance. The wanted rank is 1 of the same identity, and G of others.

    strength  ε of the soft ranks

    features  (N, D)
    labels    (N,)   identity
    infrared  (N,)   bool
    returns   scalar: |rank - wanted|, mean over a modality's queries and their lists, then over the modalities that
              have queries; 0 where none has
    """

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(full_precision(features), dim=1)
            distance = (1 - unit @ unit.T) / 2                                     # (N, N), 0 to 1
            same, other = same_identity(labels), infrared[:, None] != infrared
            queries = (same & other).any(dim=1) & (~same & other).any(dim=1)
            rank = soft_rank(distance, self.strength, other, spread=1.0)
            wanted = torch.where(same, 1, other.sum(dim=1, keepdim=True))
            error = masked_mean((rank - wanted).abs(), other)                      # (N,)
            asked = torch.stack([queries & ~infrared, queries & infrared])         # (2, N)
            return masked_mean(masked_mean(error, asked), asked.any(dim=1))
