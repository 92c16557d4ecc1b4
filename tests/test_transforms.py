"""The steps of pipelines, each alone and in their order."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import functional

from configs.load import load_config
from data import pixels, transforms
from data.pixels import MEAN, STD, adapt_channels, eval_transform, exchange_channels
from data.records import DataError
from data.rectangles import RandomErasing
from data.transforms import EPOCHS, STEPS, Pipeline, check_pipeline, read_step, shortest


def photograph(height=96, width=48) -> np.ndarray:
    """Blurred noise with all hues: smooth as a photograph, more colourful than most."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def torchvisions(height: int, width: int, jitter: bool) -> v1.Compose:
    """The field's pipeline up to random erasing: torchvision's first transforms, on PIL images."""
    return v1.Compose([
        v1.ToPILImage(),
        *([v1.ColorJitter(0.5, 0.5, 0.5, 0.5)] if jitter else []),
        v1.Pad(10),
        v1.RandomGrayscale(0.5),
        v1.RandomCrop((height, width)),
        v1.RandomHorizontalFlip(0.5),
        v1.ToTensor(),
        v1.Normalize(MEAN, STD),
    ])


def ours(image: np.ndarray, pipeline: Pipeline, epoch: int = 0) -> torch.Tensor:
    """(3, H, W) from (H, W, 3); what the pipeline leaves out would stay nan."""
    out = torch.full(image.shape, torch.nan)
    pipeline(image, out.numpy(), epoch)
    return out.permute(2, 0, 1)


UNERASED = ["pad", "grey", "crop", "flip", "normalise"]


def unerased(jitter: bool) -> Pipeline:
    return Pipeline([*(["jitter"] if jitter else []), *UNERASED])


def erasing(p=0.5, area=(0.2, 0.8), fill=MEAN, aspect=(0.3, 1 / 0.3), tries=0, **numbers) -> RandomErasing:
    return RandomErasing(p, [*area], [*fill], [*aspect], tries, **numbers)


def test_the_same_random_numbers_give_the_image_of_torchvision_pixel_for_pixel():
    """Without jitter: order of the steps, crops, mirroring, choice of grey, values. Greys are rounded otherwise."""
    image, expected, found = photograph(), torchvisions(96, 48, jitter=False), unerased(jitter=False)
    equal = 0
    for seed in range(80):
        torch.manual_seed(seed)
        a = expected(image)
        torch.manual_seed(seed)
        b = ours(image, found)
        assert (a - b).abs().max() < 1.01 / 255 / min(STD), f"seed {seed}"
        equal += torch.equal(a, b)
    assert equal > 28  # the coloured ones, at least


def test_the_same_random_numbers_give_the_image_of_torchvision_with_jitter():
    """Each of four operations rounds; what hue does to saturated colours differs most, see below."""
    image, expected, found = photograph(), torchvisions(96, 48, jitter=True), unerased(jitter=True)
    levels = 255 * torch.tensor(STD).view(3, 1, 1)
    differences = []
    for seed in range(80):
        torch.manual_seed(seed)
        a = expected(image)
        torch.manual_seed(seed)
        differences.append(((a - ours(image, found)) * levels).abs().flatten())
    differences = torch.stack(differences)
    assert differences.mean(dim=1).max() < 4 and differences.mean() < 2


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


def test_the_order_of_the_training_pipeline():
    """What docs/method.md section 8 says of each step, seen in the result."""
    image = np.zeros((40, 24, 3), dtype=np.uint8)
    image[:] = (250, 20, 20)
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    plain, jittered, grey = unerased(jitter=False), unerased(jitter=True), 0
    reds = set()
    for _ in range(100):
        out = ours(image, plain)
        border = (out - black.view(3, 1, 1)).abs().amax(0) < 1e-6  # padding comes before the normalisation
        pixels = (out * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
        grey += bool((pixels[0] - pixels[1]).abs().max() < 0.01)
        assert border.sum() <= 40 * 24 - 30 * 14  # padding reaches ten pixels into the image at most
        colours = pixels[:, ~border].round().unique(dim=1)
        assert colours.shape[1] == 1 and tuple(colours[:, 0].tolist()) in {(250, 20, 20), (89, 89, 89)}  # no jitter
        out = ours(image, jittered)
        border = (out - black.view(3, 1, 1)).abs().amax(0) < 1e-6
        assert out[:, ~border].unique(dim=1).shape[1] <= 1  # jitter comes before padding, which stays black
        reds.add(round(float(out[0].max()), 3))
    assert 30 < grey < 70 and len(reds) > 50
    erased = torch.full((40, 24, 3), torch.nan)
    Pipeline([*UNERASED, {"erase": {"p": 1.0, "area": [0.3, 0.3]}}])(image, erased.numpy())
    filled = (erased == torch.tensor(MEAN)).all(dim=2)  # into the normalised image
    assert filled.sum().item() == pytest.approx(0.3 * 40 * 24, rel=0.1)


def test_training_images_by_statistics():
    """Half are mirrored, half grey, half erased; and crops reach ten pixels into the black border, evenly."""
    image = np.full((40, 24, 3), 128, dtype=np.uint8)
    image[:, :, 0] += np.arange(24, dtype=np.uint8)  # brighter to the right, red differs from the rest
    pipeline = Pipeline([*UNERASED, {"erase": {"area": [0.02, 0.4]}}])
    count, grey, mirrored, erased, tops = 1500, 0, 0, 0, []
    fill, black = torch.tensor(MEAN), -torch.tensor(MEAN) / torch.tensor(STD)
    for _ in range(count):
        out = ours(image, pipeline)
        assert out.shape == (3, 40, 24) and out.dtype == torch.float32 and out.isfinite().all()
        erased_here = (out - fill.view(3, 1, 1)).abs().amax(0) < 1e-6
        border = (out - black.view(3, 1, 1)).abs().amax(0) < 1e-5
        erased += bool(erased_here.any())
        clean = ~(erased_here | border)
        pixels = out * torch.tensor(STD).view(3, 1, 1) + fill.view(3, 1, 1)
        grey += bool(((pixels[0] - pixels[1]).abs() < 1e-3)[clean].all())
        columns = torch.arange(24).expand(40, 24)[clean].float()
        mirrored += bool(((columns - columns.mean()) * (pixels[0][clean] - pixels[0][clean].mean())).sum() < 0)
        tops.append(int(border.all(dim=1)[:20].sum()))
    for share in (grey, mirrored, erased):
        assert share / count == pytest.approx(0.5, abs=0.05)
    tops = np.bincount(tops, minlength=11) / count
    assert tops[0] == pytest.approx(11 / 21, abs=0.06) and len(tops) == 11 and tops[1:].min() > 0.02


def test_crop_offsets_are_uniform_in_both_directions():
    marked = np.arange(60 * 44).reshape(60, 44)
    corners = [divmod(int(pixels.random_crop(marked, 40, 24)[0, 0]), 44) for _ in range(4200)]
    for offsets in zip(*corners):
        counts = np.bincount(offsets, minlength=21)
        assert len(counts) == 21 and 130 < counts.min() and counts.max() < 270  # 200 each, ±14


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


def test_torchvisions_shapes_are_even_in_their_logarithm():
    erase = erasing(area=(0.01, 0.01), aspect=(0.25, 4.0), even_log=True)
    ratios = [height / width for _, _, height, width in (erase.place(1000, 1000) for _ in range(1000))]
    assert 0.24 < min(ratios) < 0.27 and 3.7 < max(ratios) < 4.1
    assert np.quantile(ratios, [0.25, 0.5, 0.75]) == pytest.approx([0.5, 1, 2], rel=0.1)


def test_a_fill_of_before_the_normalisation_is_left_normalised():
    image = np.zeros((20, 20, 3), np.float32)
    erasing(1.0, (0.2, 0.3), fill=(0.4914, 0.4822, 0.4465), before_normalise=True)(image, image)
    found = image[image.any(axis=2)] * STD + MEAN
    assert len(found) > 60 and np.abs(found - [0.4914, 0.4822, 0.4465]).max() < 1e-6


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


# --- CAJ's channels ---------------------------------------------------------------------------------------------------

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


def test_dim_gives_each_channel_a_number_of_its_own():
    original = normalised(photograph(4, 3))
    factors = np.array([after("dim", original.copy())[0, 0] / original[0, 0] for _ in range(400)])
    changed = factors[(factors != 1).any(1)]
    assert 160 < len(changed) < 240
    assert changed.min() > 0.0199 and changed.max() < 1.0001 and (changed.min(0) < 0.1).all()
    assert abs(changed.mean() - 0.51) < 0.05 and abs(np.corrcoef(changed.T)[0, 1]) < 0.25
    assert (after({"dim": {"p": 1, "least": 1}}, original.copy()) == original).all()


def test_brightness_multiplies_all_of_the_image():
    image = np.full((4, 3, 3), 100, np.uint8)
    found = [after("brightness", image) for _ in range(300)]
    assert all((x == x[0, 0, 0]).all() for x in found)
    values = [int(x[0, 0, 0]) for x in found]
    assert 50 <= min(values) < 60 and 140 < max(values) <= 150 and 90 < np.mean(values) < 110
    assert (after({"brightness": 0}, image) == image).all()


def pipelines(name, *overrides):
    """Of each view of a visible image, and of an infrared one."""
    data = load_config(f"configs/{name}.yaml", overrides).DATA
    return [Pipeline(view) for view in data.VISIBLE], [Pipeline(view) for view in data.INFRARED]


def test_agw_only_crops_and_mirrors():
    image = photograph(288, 144)
    (visible,), (infrared,) = pipelines("sysu_agw")
    padded = eval_transform(np.pad(image, ((10, 10), (10, 10), (0, 0))))
    crops = padded.unfold(1, 288, 1).unfold(2, 144, 1)  # (3, 21, 21, 288, 144)
    for transform in (visible, infrared):
        for _ in range(4):
            out = ours(image, transform)
            found = [(top, left) for top in range(21) for left in range(21) for x in (out, out.flip(-1))
                     if torch.equal(crops[:, top, left], x)]
            assert len(found) == 1


def test_caj_shows_visible_images_twice_and_exchanges_the_erased_part_with_the_rest():
    image = np.full((288, 144, 3), (250, 120, 20), dtype=np.uint8)
    (plain, exchanged), (infrared,) = pipelines("sysu_caj", "DATA.ERASING", "1.0")
    fill = torch.tensor((0.4914, 0.4822, 0.4465))
    normal, black = (torch.tensor(c) / 255 for c in ((250.0, 120.0, 20.0), (0.0, 0.0, 0.0)))
    colours = torch.stack([(c - torch.tensor(MEAN)) / torch.tensor(STD) for c in (normal, black)] + [fill])  # (3, 3)
    for _ in range(8):
        shown = ours(image, plain).flatten(1).T.unique(dim=0)
        assert (shown[:, None] - colours).abs().amax(2).amin(1).max() < 1e-5  # person, border and erased part
        assert (shown == fill).all(1).any()
        out = ours(image, exchanged)
        assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
        values = out[0].unique()
        k, = (k for k in range(3) if (values[:, None] - colours[:, k]).abs().amin(1).max() < 1e-5)  # of one channel
        assert (values == fill[k]).any()
    assert infrared.steps[-1][1] is STEPS["adapt"].make()


# --- Steps ------------------------------------------------------------------------------------------------------------

def after(step, image: np.ndarray) -> np.ndarray:
    """What a step makes of an image."""
    (_, change), = Pipeline([step]).steps
    return change(image, np.full(image.shape, np.nan, np.float32))


def normalised(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(eval_transform(image).permute(1, 2, 0).numpy())


def test_pad_has_its_width_and_its_grey_level():
    image = np.full((4, 3, 3), 200, np.uint8)
    padded = after({"pad": {"pixels": 2, "fill": 127}}, image)
    expected = np.full((8, 7, 3), 127, np.uint8)
    expected[2:6, 2:5] = 200
    assert (padded == expected).all()
    assert after("pad", image).shape == (24, 23, 3) and not after("pad", image)[:10].any()
    assert after({"pad": 1}, image).shape == (6, 5, 3)  # the first of its numbers alone


def test_crop_has_the_networks_size():
    image = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5, 1).repeat(3, 2)
    places = set()
    for _ in range(100):
        out = np.empty((4, 3, 3), np.float32)
        cut = STEPS["crop"].make()(image, out)
        top, left = divmod(int(cut[0, 0, 0]), 5)
        assert (cut == image[top:top + 4, left:left + 3]).all()
        places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(3)}


@pytest.mark.parametrize("name, change", [
    ("flip", lambda image: image[:, ::-1]), ("grey", lambda image: np.full_like(image, 89)),
])
def test_flip_and_grey_come_with_their_probability(name, change):
    image = np.empty((4, 6, 3), np.uint8)
    image[:] = (250, 20, 20)
    if name == "flip":
        image[:, :2] = 3
    changed = change(image)
    for p, low, high in ((0.0, 0, 0), (1.0, 200, 200), (0.2, 20, 60)):
        found = [after({name: p}, image) for _ in range(200)]
        assert all((x == image).all() or (x == changed).all() for x in found)
        assert low <= sum((x == changed).all() for x in found) <= high


def test_jitter_changes_colours_alone():
    image = photograph(8, 6)
    found = [after("jitter", image) for _ in range(20)]
    assert all(x.shape == image.shape and x.dtype == np.uint8 for x in found)
    assert len({x.tobytes() for x in found}) == 20


def test_normalise_fills_what_the_network_gets():
    image, out = photograph(8, 6), np.full((8, 6, 3), np.nan, np.float32)
    assert STEPS["normalise"].make()(image, out) is out and (out == normalised(image)).all()


@pytest.mark.parametrize("how, kind", [("bilinear", Image.Resampling.BILINEAR), ("lanczos", Image.Resampling.LANCZOS)])
def test_resize_gives_the_networks_size_as_pillow_does(how, kind):
    image, out = photograph(18, 9), np.empty((16, 8, 3), np.float32)
    expected = np.asarray(Image.fromarray(image).resize((8, 16), kind))
    assert (STEPS["resize"].make(how)(image, out) == expected).all()
    check_pipeline(["pad", {"resize": how}, "normalise"])
    Pipeline([{"resize": how}, "normalise"])(image, out)
    assert (out == normalised(expected)).all()


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


def test_a_step_acts_in_its_epochs_alone():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :2] = 200
    plain, mirrored = ours(image, Pipeline(["normalise"])), ours(image[:, ::-1], Pipeline(["normalise"]))
    pipeline = Pipeline([{"flip": {"p": 1, "from": 2, "until": 5}}, "normalise"])
    acts = [torch.equal(ours(image, pipeline, epoch), mirrored) for epoch in range(7)]
    assert acts == [False, False, True, True, True, False, False]
    assert all(torch.equal(ours(image, pipeline, epoch), plain) for epoch in (0, 1, 5, 6, 99_999))
    assert torch.equal(ours(image, Pipeline([{"flip": {"p": 1, "from": 2}}, "normalise"]), 99_999), mirrored)



def test_a_pipeline_is_the_same_in_another_process():
    image, steps = photograph(40, 24), ["jitter", *UNERASED, {"erase": {"p": 1, "until": 2}}, "exchange"]
    original, copied = Pipeline(steps), pickle.loads(pickle.dumps(Pipeline(steps)))
    for epoch in (1, 2):
        torch.manual_seed(3)
        expected = ours(image, original, epoch)
        torch.manual_seed(3)
        assert torch.equal(ours(image, copied, epoch), expected) and expected.isfinite().all()


# --- Steps that change channels ---------------------------------------------------------------------------------------

def change(step: object, image: np.ndarray, seed: int = 0) -> np.ndarray:
    torch.manual_seed(seed)
    name, numbers = read_step(step)
    return STEPS[name].make(**{key: value for key, value in numbers.items() if key not in EPOCHS})(image, None)


def test_weighted_grey_is_a_mean_of_the_channels_with_weights_that_sum_to_one():
    image = photograph()
    for seed in range(5):
        grey = change({"weighted_grey": 1.0}, image, seed)
        assert (grey == grey[:, :, :1]).all()
        channels = image.reshape(-1, 3).astype(float)
        solved, *_ = np.linalg.lstsq(channels, grey[:, :, 0].ravel().astype(float), rcond=None)
        assert solved.sum() == pytest.approx(1, abs=0.01) and (solved > -0.01).all()


def test_hue_moves_by_a_fifth_of_the_circle_at_most_and_leaves_grey_alone():
    image, grey = photograph(), np.full((4, 4, 3), 77, np.uint8)
    expected = [functional.adjust_hue(Image.fromarray(image), turn) for turn in (-0.2, 0.2)]
    with pytest.MonkeyPatch.context() as patch:
        for drawn, wanted in zip((0.0, 1.0), expected):
            patch.setattr(transforms, "uniform", lambda low, high, drawn=drawn: low + drawn * (high - low))
            difference = np.abs(change({"hue": 1.0}, image).astype(int) - np.asarray(wanted).astype(int))
            assert difference.mean() < 3
    assert (change({"hue": 1.0}, grey) == 77).all()


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


def test_one_of_takes_each_step_alike_and_its_own_numbers():
    step = {"one_of": [{"grey": 1.0}, {"flip": 1.0}]}
    image = photograph()
    grey = [bool((change(step, image, seed) == change({"grey": 1.0}, image)).all()) for seed in range(100)]
    assert 30 < sum(grey) < 70
    assert read_step("one_of")[1]["steps"] == ["hue", "weighted_grey", "channel_cutmix", "spectrum_jitter"]
    assert shortest([[{"one_of": {"steps": [{"hue": {"most": 0.2}}, {"grey": 0.5}]}}, "normalise"]]) == [
        [{"one_of": {"steps": ["hue", "grey"]}}, "normalise"]
    ]


def test_an_aspect_even_in_its_logarithm_is_as_often_upright_as_lying():
    torch.manual_seed(0)
    erase = RandomErasing(1.0, [0.02, 0.02], [0, 0, 0], [0.25, 4.0], tries=10, even_log=True)
    places = [erase.place(400, 400) for _ in range(400)]
    ratios = np.array([height / width for _, _, height, width in places])
    assert 0.44 < (ratios > 1).mean() < 0.56 and ratios.min() < 0.3 and ratios.max() > 3.4


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
