"""DNS's shifts to a space between the modalities: of a map (HSS) and of a feature (CSS)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HSS(nn.Module):
    """Heterogeneous space shifting: gates of rows and columns, decided by a shifted map, on the map as it is.

    The shifted map is x + r·c, r and c being softmaxes over rows and over columns of each channel's maxima. Only its
    means over columns and over rows are used; as r and c sum to 1, they are those of x plus r/W and c/H.

    x         (B, C, H, W)
    returns   (B, C, H, W)
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = max(8, channels // 32)
        self.reduce = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish())
        self.rows = nn.Conv2d(inner, channels, 1, bias=False)
        self.columns = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        r = x.amax(dim=3, keepdim=True).softmax(dim=2)                          # (B, C, H, 1)
        c = x.amax(dim=2, keepdim=True).softmax(dim=3)                          # (B, C, 1, W)
        of_rows = x.mean(dim=3, keepdim=True) + r / width
        of_columns = x.mean(dim=2, keepdim=True) + c / height
        both = torch.cat([of_rows, of_columns.transpose(2, 3)], dim=2)          # (B, C, H + W, 1): one batch norm
        of_rows, of_columns = self.reduce(both).split([height, width], dim=2)
        gate_rows = self.rows(of_rows).sigmoid()                                # (B, C, H, 1)
        gate_columns = self.columns(of_columns.transpose(2, 3)).sigmoid()       # (B, C, 1, W)
        return x * gate_rows * gate_columns


class CSS(nn.Module):
    """Common space shifting: a feature and its softmax through a perceptron of one hidden layer.

    x         (B, D): means over positions
    returns   (B, D)
    """

    def __init__(self, width: int, dropout: float = 0.01):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(4 * width, width), nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x + F.softmax(x, dim=1))
