"""The random erasing: how large its rectangles are, of which shape, and what they are filled with."""

import numpy as np
import pytest
import torch

from data.pixels import MEAN, STD
from data.records import DataError
from data.rectangles import RandomErasing


def erasing(p=0.5, area=(0.2, 0.8), fill=MEAN, aspect=(0.3, 1 / 0.3), tries=0, **numbers) -> RandomErasing:
    return RandomErasing(p, [*area], [*fill], [*aspect], tries, **numbers)


def rectangles(area, count=3000):
    erase = erasing(area=area, fill=(9.0, 9.5, 8.0))
    sizes = []
    for _ in range(count):
        image = np.zeros((60, 30, 3), dtype=np.float32)
        assert erase(image, image) is image
        hit = (image == (9.0, 9.5, 8.0)).all(axis=2)
        assert not image[~hit].any()
        if hit.any():
            sizes.append((int(hit.any(1).sum()), int(hit.any(0).sum())))
            assert hit.sum() == sizes[-1][0] * sizes[-1][1]  # one whole rectangle
    return np.array(sizes), count


def test_erased_area_and_ratio_are_uniform():
    sizes, count = rectangles((0.02, 0.05))  # small ones always fit, so nothing is redrawn
    assert len(sizes) / count == pytest.approx(0.5, abs=0.04)
    area, ratio = sizes.prod(1) / 1800, sizes[:, 0] / sizes[:, 1]
    assert area.mean() == pytest.approx(0.035, abs=0.002)
    assert ratio.mean() == pytest.approx((0.3 + 1 / 0.3) / 2, abs=0.1)  # log-uniform would give 1.26
    assert 0.25 < ratio.min() < 0.45 and 2.8 < ratio.max() < 4


def test_erased_rectangles_always_fit():
    sizes, count = rectangles((0.2, 0.8))
    assert len(sizes) / count == pytest.approx(0.5, abs=0.04)
    assert (sizes[:, 0] < 60).all() and (sizes[:, 1] < 30).all()
    assert sizes.prod(1).min() / 1800 > 0.19


def test_an_impossible_erasing_area_is_refused():
    with pytest.raises(DataError, match=r"erase has the area \[0.8, 0.2\]; it needs 0 < smallest <= largest < 1"):
        erasing(area=(0.8, 0.2))
    image = np.zeros((10, 10, 3), np.float32)
    with pytest.raises(DataError, match=r"\[0.98, 0.99\], and no such part fits into 10x10 pixels"):
        erasing(1.0, (0.98, 0.99))(image, image)  # at most 9 by 9 fit


def test_erasing_gives_up_after_its_tries():
    image = np.zeros((10, 10, 3), np.float32)
    never = erasing(1.0, (0.98, 0.99), tries=10)
    assert never(image, image) is image and not image.any()
    small = erasing(1.0, (0.05, 0.06), fill=(1, 1, 1), tries=10)
    assert small(image, image).any()


def test_erased_shapes_keep_to_their_aspect():
    for aspect, low, high in (((2.0, 2.0), 1.7, 2.4), ((0.5, 0.5), 0.4, 0.6)):
        for _ in range(20):
            image = np.zeros((60, 60, 3), np.float32)
            erasing(1.0, (0.05, 0.1), (1, 1, 1), aspect)(image, image)
            hit = image[:, :, 0] == 1
            assert low < hit.any(1).sum() / hit.any(0).sum() < high


def test_torchvisions_shapes_are_even_in_their_logarithm():
    erase = erasing(area=(0.01, 0.01), aspect=(0.25, 4.0), even_log=True)
    ratios = [height / width for _, _, height, width in (erase.place(1000, 1000) for _ in range(1000))]
    assert 0.24 < min(ratios) < 0.27 and 3.7 < max(ratios) < 4.1
    assert np.quantile(ratios, [0.25, 0.5, 0.75]) == pytest.approx([0.5, 1, 2], rel=0.1)


def test_an_aspect_even_in_its_logarithm_is_as_often_upright_as_lying():
    torch.manual_seed(0)
    erase = RandomErasing(1.0, [0.02, 0.02], [0, 0, 0], [0.25, 4.0], tries=10, even_log=True)
    places = [erase.place(400, 400) for _ in range(400)]
    ratios = np.array([height / width for _, _, height, width in places])
    assert 0.44 < (ratios > 1).mean() < 0.56 and ratios.min() < 0.3 and ratios.max() > 3.4


def test_a_fill_of_before_the_normalisation_is_left_normalised():
    image = np.zeros((20, 20, 3), np.float32)
    erasing(1.0, (0.2, 0.3), fill=(0.4914, 0.4822, 0.4465), before_normalise=True)(image, image)
    found = image[image.any(axis=2)] * STD + MEAN
    assert len(found) > 60 and np.abs(found - [0.4914, 0.4822, 0.4465]).max() < 1e-6
