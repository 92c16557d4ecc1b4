import pytest
import torch
from torch.nn import functional as F

from models.parts.layers import ChannelLayerNorm, DropPath, HaarConv, WindowAttention, haar, inverse_haar


def test_haar_of_one_known_block():
    x = torch.tensor([[1.0, 2.0], [3.0, 8.0]]).reshape(1, 1, 2, 2)
    average, vertical, horizontal, both = 7.0, -4.0, -3.0, 2.0  # sums and differences, halved
    assert haar(x).flatten().tolist() == [average, vertical, horizontal, both]


def test_haar_is_orthonormal_and_undone_by_its_inverse():
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(inverse_haar(haar(x)), x)
    torch.testing.assert_close(haar(x).square().sum(), x.square().sum())


def test_haar_equals_a_grouped_convolution():
    signs = [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]
    filters = torch.tensor(signs, dtype=torch.float32).reshape(4, 1, 2, 2) / 2
    x = torch.randn(2, 3, 6, 4)
    torch.testing.assert_close(haar(x), F.conv2d(x, filters.repeat(3, 1, 1, 1), stride=2, groups=3))


@pytest.mark.parametrize("size", [(6, 4), (5, 4), (5, 3)])
def test_wavelet_convolution_of_identities_passes_the_map(size):
    conv = HaarConv(2)
    with torch.no_grad():
        for weight in (conv.base.weight, conv.wavelet.weight):
            weight.zero_()[:, :, 1, 1] = 1
    x = torch.randn(1, 2, *size)
    torch.testing.assert_close(conv(x), 1.1 * x)  # scales 1 and 0.1


def test_layer_norm_is_over_channels():
    y = ChannelLayerNorm(8)(3 + 5 * torch.randn(2, 8, 3, 2))
    torch.testing.assert_close(y.mean(dim=1), torch.zeros(2, 3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(dim=1, unbiased=False), torch.ones(2, 3, 2), atol=1e-3, rtol=0)


def test_drop_path_drops_whole_rows_and_keeps_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = drop.train()(x)
    rows = y.flatten(1)
    assert (rows == rows[:, :1]).all()
    assert sorted(set(rows[:, 0].tolist())) == pytest.approx([0, 4 / 3])
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x


def test_window_attention_against_each_window_by_hand():
    attend = WindowAttention(8, heads=2, window=2, shift=0).double()
    x = torch.randn(1, 4, 2, 8, dtype=torch.float64)
    torch.nn.init.normal_(attend.bias_table)
    upper, lower = attend(x[:, :2]), attend(x[:, 2:])
    torch.testing.assert_close(attend(x), torch.cat([upper, lower], dim=1))

    tokens = x[0, :2].reshape(4, 8)  # one window, head by head
    q, k, v = (tokens @ attend.qkv.weight.T + attend.qkv.bias).split(8, dim=1)
    heads = []
    for h in range(2):
        columns = slice(4 * h, 4 * h + 4)
        bias = torch.stack([torch.stack([
            attend.bias_table[(i // 2 - j // 2 + 1) * 3 + i % 2 - j % 2 + 1, h] for j in range(4)]) for i in range(4)])
        heads.append((q[:, columns] @ k[:, columns].T / 2 + bias).softmax(dim=1) @ v[:, columns])
    expected = torch.cat(heads, dim=1) @ attend.project.weight.T + attend.project.bias
    torch.testing.assert_close(upper.reshape(4, 8), expected)


def test_windows_are_rolled_by_one_and_back():
    shifted, plain = WindowAttention(8, heads=2, window=2), WindowAttention(8, heads=2, window=2, shift=0)
    plain.load_state_dict(shifted.state_dict())
    x = torch.randn(1, 4, 4, 8)
    torch.testing.assert_close(shifted(x), plain(x.roll((-1, -1), (1, 2))).roll((1, 1), (1, 2)))
