"""The steps that change colours and channels."""

import numpy as np
import pytest
import torch
from PIL import Image
from steps import after, change, normalised, ours, photograph
from torchvision import transforms as v1
from torchvision.transforms import functional

from data import pixels, transforms
from data.pixels import adapt_channels, exchange_channels
from data.transforms import STEPS, Pipeline


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.2, 1.5])
@pytest.mark.parametrize("what", ["brightness", "contrast", "saturation"])
def test_brightness_contrast_and_saturation_are_within_a_grey_level_of_torchvision(what, factor):
    image = photograph()
    expected = np.asarray(getattr(functional, f"adjust_{what}")(Image.fromarray(image), factor))
    found = getattr(pixels, f"adjust_{what}")(image, factor)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert factor == 1 or (found != image).mean() > 0.5


@pytest.mark.parametrize("turn", [-0.5, -0.3, -0.1, 0.0, 0.1, 0.25, 0.5])
def test_hue_is_within_a_level_of_the_exact_one_and_two_of_pillow_on_average(turn):
    """Both keep 8 bits of hue. Pillow cuts the rest off, so it is farther from the exact one for turns above 0."""
    image = photograph()
    exact = functional.adjust_hue(torch.from_numpy(image.copy()).permute(2, 0, 1).double() / 255, turn)
    exact = 255 * exact.permute(1, 2, 0).numpy()
    pillow = np.asarray(functional.adjust_hue(Image.fromarray(image), turn))
    found = pixels.adjust_hue(image, turn)
    assert np.abs(found - exact).mean() < 1
    assert turn <= 0 or np.abs(found - exact).mean() < np.abs(pillow - exact).mean()
    assert np.abs(found.astype(int) - pillow).mean() < 2
    assert np.abs(found.astype(int) - pillow).max() <= 20  # of saturated colours, two steps of hue


def test_jitter_leaves_its_input_alone_and_has_the_spread_of_torchvision():
    image = photograph()
    before, jitter = image.copy(), v1.ColorJitter(0.5, 0.5, 0.5, 0.5)
    found, expected = [], []
    for _ in range(600):
        found.append(pixels.jitter_colours(image).reshape(-1, 3))
        expected.append(np.asarray(jitter(Image.fromarray(image))).reshape(-1, 3))
    assert (image == before).all()
    for figure in (np.mean, np.std):
        a, b = ([figure(x.astype(float), axis=0) for x in images] for images in (found, expected))
        # Means over 600 draws: their standard errors are about 1 level.
        assert np.mean(a, axis=0) == pytest.approx(np.mean(b, axis=0), abs=6)
        assert np.std(a, axis=0) == pytest.approx(np.std(b, axis=0), rel=0.2)


def test_jitter_changes_colours_alone():
    image = photograph(8, 6)
    found = [after("jitter", image) for _ in range(20)]
    assert all(x.shape == image.shape and x.dtype == np.uint8 for x in found)
    assert len({x.tobytes() for x in found}) == 20


def test_jitter_or_blur_is_one_of_both_within_a_level_of_torchvision():
    """Jitter of the light alone is a range of factors; a blur is that of its deviation, at the border too."""
    image = photograph(32, 20)
    for sigma in (0.1, 0.8, 3.0):
        expected = v1.GaussianBlur(21, (sigma, sigma))(torch.from_numpy(image.copy()).permute(2, 0, 1))
        blurred = after({"jitter_or_blur": {"p": 0.0, "sigma": [sigma, sigma]}}, image).astype(int)
        assert np.abs(blurred - expected.permute(1, 2, 0).numpy()).max() <= 1, sigma
    level = np.full((8, 6, 3), 100, np.uint8)  # contrast changes nothing of one grey, nor does a blur
    brightness = {"jitter_or_blur": {"p": 1.0, "brightness": 0.3, "contrast": 0.3}}
    greys = [int(after(brightness, level)[0, 0, 0]) for _ in range(300)]
    assert 70 <= min(greys) < 75 and 125 < max(greys) <= 130
    assert (after({"jitter_or_blur": {"p": 1.0, "brightness": 0, "contrast": 0}}, image) == image).all()
    steep = {"jitter_or_blur": {"p": 1.0, "brightness": 0, "contrast": 0.3}}
    halves = np.full((8, 6, 3), 50, np.uint8)
    halves[:, 3:] = 150
    spreads = [int(np.ptp(after(steep, halves))) for _ in range(300)]
    assert 70 <= min(spreads) < 75 and 125 < max(spreads) <= 130
    jittered = sum(int(after("jitter_or_blur", level)[0, 0, 0]) != 100 for _ in range(400))
    assert 160 < jittered < 230  # half, of which a factor rounds to the same grey in 1 of 60


def test_brightness_multiplies_all_of_the_image():
    image = np.full((4, 3, 3), 100, np.uint8)
    found = [after("brightness", image) for _ in range(300)]
    assert all((x == x[0, 0, 0]).all() for x in found)
    values = [int(x[0, 0, 0]) for x in found]
    assert 50 <= min(values) < 60 and 140 < max(values) <= 150 and 90 < np.mean(values) < 110
    assert (after({"brightness": 0}, image) == image).all()


def test_dim_gives_each_channel_a_number_of_its_own():
    original = normalised(photograph(4, 3))
    factors = np.array([after("dim", original.copy())[0, 0] / original[0, 0] for _ in range(400)])
    changed = factors[(factors != 1).any(1)]
    assert 160 < len(changed) < 240
    assert changed.min() > 0.0199 and changed.max() < 1.0001 and (changed.min(0) < 0.1).all()
    assert abs(changed.mean() - 0.51) < 0.05 and abs(np.corrcoef(changed.T)[0, 1]) < 0.25
    assert (after({"dim": {"p": 1, "least": 1}}, original.copy()) == original).all()


def test_hues_turn_as_far_as_they_may_and_grey_has_none():
    turn = {"hue": {"p": 1.0, "most": 0.5}}
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    seen = np.array([after(turn, red)[0, 0] for _ in range(300)])
    assert (seen.max(1) >= 199).all() and (seen.min(1) <= 1).all()  # as bright and as full as before
    assert min((seen[:, channel] > 190).mean() for channel in range(3)) > 0.2  # each third of the circle
    near = np.array([after({"hue": {"p": 1.0, "most": 0.05}}, red)[0, 0] for _ in range(50)])
    assert (near[:, 0] > 190).all() and 20 < near[:, 1:].max() < 70
    grey = np.full((2, 2, 3), 77, np.uint8)
    assert all((after(turn, grey) == grey).all() for _ in range(20))


def test_hue_moves_by_a_fifth_of_the_circle_at_most_and_leaves_grey_alone():
    image, grey = photograph(), np.full((4, 4, 3), 77, np.uint8)
    expected = [functional.adjust_hue(Image.fromarray(image), turn) for turn in (-0.2, 0.2)]
    with pytest.MonkeyPatch.context() as patch:
        for drawn, wanted in zip((0.0, 1.0), expected):
            patch.setattr(transforms, "uniform", lambda low, high, drawn=drawn: low + drawn * (high - low))
            difference = np.abs(change({"hue": 1.0}, image).astype(int) - np.asarray(wanted).astype(int))
            assert difference.mean() < 3
    assert (change({"hue": 1.0}, grey) == 77).all()


def test_augmix_is_torchvisions_without_what_corruptions_are():
    image = photograph()
    before = image.copy()
    for seed in range(3):
        torch.manual_seed(seed)
        torch.rand(1)  # for the probability
        expected = v1.AugMix(5, 2, 2, alpha=0.7, all_ops=False)(Image.fromarray(image))
        found = change({"augmix": {"severity": 5, "chains": 2, "depth": 2, "alpha": 0.7}}, image, seed)
        assert (found == np.asarray(expected)).all() and found.flags["C_CONTIGUOUS"]
    assert (image == before).all() and (change({"augmix": 0.0}, image) == image).all()
    assert ours(image, Pipeline(["augmix", "flip", "normalise"])).isfinite().all()


# Channels


def outcomes(change, count=4000):
    """How often (in parts of one) an image of channels 1, 2, 4 becomes which image."""
    found = {}
    for _ in range(count):
        image = np.empty((2, 3, 3), dtype=np.float32)
        image[:] = (1, 2, 4)
        change(image)
        assert (image == image[0, 0]).all()
        key = tuple(round(float(value), 3) for value in image[0, 0])
        found[key] = found.get(key, 0) + 1 / count
    return found


ONE_CHANNEL, GREY = [(1, 1, 1), (2, 2, 2), (4, 4, 4)], (1.929,) * 3  # 0.2989 + 2 · 0.5870 + 4 · 0.1140


def test_exchange_shows_one_channel_always():
    found = outcomes(exchange_channels)
    assert found == {colour: pytest.approx(1 / 3, abs=0.04) for colour in ONE_CHANNEL}
    found = outcomes(lambda image: exchange_channels(image, grey=True))
    assert found == {colour: pytest.approx(1 / 4, abs=0.04) for colour in [*ONE_CHANNEL, GREY]}


def test_adaption_is_a_quarter_for_each_channel_and_an_eighth_for_grey_and_for_nothing():
    shares = {**dict.fromkeys(ONE_CHANNEL, 1 / 4), GREY: 1 / 8, (1, 2, 4): 1 / 8}
    found = outcomes(adapt_channels)
    assert found == {colour: pytest.approx(share, abs=0.03) for colour, share in shares.items()}


def test_green_is_the_second_channel_or_else_grey_or_nothing():
    def shares(**numbers):
        return outcomes(lambda image: STEPS["green"].make(**numbers)(image, image), count=1000)

    found = shares(p=0.5, grey=0.5)
    assert found == {
        (2, 2, 2): pytest.approx(1 / 2, abs=0.06), GREY: pytest.approx(1 / 4, abs=0.06),
        (1, 2, 4): pytest.approx(1 / 4, abs=0.06),
    }
    assert shares(p=0.0, grey=0.0).keys() == {(1, 2, 4)} and shares(p=0.0, grey=1.0).keys() == {GREY}


def test_exchange_and_adapt_change_the_normalised_image_in_its_place():
    original = normalised(photograph(4, 3))
    for step, least, most in (("exchange", 200, 200), ({"exchange": True}, 200, 200), ("adapt", 160, 190)):
        without_colours = 0
        for _ in range(200):
            image = original.copy()
            assert after(step, image) is image
            without_colours += bool((image == image[:, :, :1]).all())
        assert least <= without_colours <= most  # adapt leaves an eighth as it is


def test_an_exchange_of_some_probability_leaves_the_rest():
    step, original, left = {"exchange": {"p": 0.3}}, normalised(photograph(4, 3)), 0
    for _ in range(400):
        left += bool((after(step, original.copy()) == original).all())
    assert 240 < left < 320


def test_weighted_grey_is_a_mean_of_the_channels_with_weights_that_sum_to_one():
    image = photograph()
    for seed in range(5):
        grey = change({"weighted_grey": 1.0}, image, seed)
        assert (grey == grey[:, :, :1]).all()
        channels = image.reshape(-1, 3).astype(float)
        solved, *_ = np.linalg.lstsq(channels, grey[:, :, 0].ravel().astype(float), rcond=None)
        assert solved.sum() == pytest.approx(1, abs=0.01) and (solved > -0.01).all()


def test_channel_mix_prefers_one_or_two_channels():
    """By Beta(0.5, 0.5), the largest weight is above 0.8 more often than by even ones, of weighted_grey."""
    def largest(step):
        ramp = np.eye(3, dtype=np.uint8)[None] * 255  # a red, a green and a blue pixel: their greys are the weights
        mixed = [change({step: 1.0}, ramp, seed)[0] / 255 for seed in range(80)]
        assert all((x == x[:, :1]).all() and x[:, 0].sum() == pytest.approx(1, abs=0.01) for x in mixed)
        return np.mean([x.max() > 0.8 for x in mixed])

    assert largest("channel_mix") > 2 * largest("weighted_grey")
    image = photograph()
    assert (change({"channel_mix": 0.0}, image) == image).all()


def test_spectrum_jitter_is_between_the_image_and_one_of_its_channels():
    image, channels = photograph(), set()
    for seed in range(12):
        found = change({"spectrum_jitter": 1.0}, image, seed).astype(float)
        torch.manual_seed(seed)
        torch.rand(1)
        channel, kept = torch.randint(3, (1,)).item(), torch.rand(1).item()
        assert np.abs(found - (kept * image + (1 - kept) * image[:, :, channel, None])).max() <= 1
        channels.add(channel)
    assert channels == {0, 1, 2}


@pytest.mark.parametrize("swapped, below", [(True, 0), (False, 1)])
def test_channel_cutmix_pastes_a_rectangle_of_one_channel_into_another(swapped, below):
    """Swapped, an upright image has it in its first rows, as many as the image has columns, at times beside it."""
    image = np.broadcast_to(np.array([10, 20, 30], np.uint8), (96, 48, 3)).copy()
    lowest, parts = 0, []
    for seed in range(60):
        found = change({"channel_cutmix": {"p": 1.0, "swapped": swapped}}, image, seed)
        assert (found == found[:, :, :1]).all()
        values, counts = np.unique(found[:, :, 0], return_counts=True)
        assert len(values) <= 2 and {*values} <= {10, 20, 30}
        if len(values) == 2:
            rare = values[counts.argmin()]
            rows, columns = np.nonzero(found[:, :, 0] == rare)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == counts.min()
            lowest = max(lowest, rows.max())
            parts.append(height * width / found[:, :, 0].size)
    assert (lowest >= 48) == below and (min(parts) < 0.02) == swapped and max(parts) < 0.34
