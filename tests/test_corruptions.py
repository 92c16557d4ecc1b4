"""Twenty corruptions: their numbers, measured; an image's corruption depends on seed, repeat and path alone."""

from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from programs import run

from data import corruptions, weather
from data.corrupted import ORDERS, CorruptedReader
from data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from data.dataset import eval_loaders
from data.filters import motion_blurred, zoomed
from data.records import DataError, Record

# Of docs/robustness.md; the ones that a library's images hold are in tests/data/imagecorruptions.npz.
GAUSSIAN, SPECKLE = (0.08, 0.12, 0.18, 0.26, 0.38), (0.15, 0.2, 0.35, 0.45, 0.6)
PHOTONS, SALT_AND_PEPPER = (60, 25, 12, 5, 3), (0.03, 0.06, 0.09, 0.17, 0.27)
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
SNOW_KEPT, SPATTER, ELASTIC = (0.8, 0.7, 0.7, 0.65, 0.55), (0.6, 0.6, 0.5), (0.05, 0.065, 0.085, 0.1, 0.12)
RAIN = ((770, 10, 0.1), (600, 30, 0.15), (600, 30, 0.2), (500, 60, 0.25), (500, 60, 0.3))


def of_grey(level, side=128):
    return np.full((side, side, 3), level, np.uint8)


def changed(name, severity, x, seed=0):
    """Before it is cut to [0, 1] and to levels."""
    corruption = CORRUPTIONS[name]
    return corruption.change(np.float32(x), np.random.default_rng(seed), *corruption.numbers[severity - 1])


def test_there_are_twenty_of_five_severities():
    assert len(CORRUPTIONS) == 20 and SEVERITIES == (1, 2, 3, 4, 5)
    assert {len(corruption.numbers) for corruption in CORRUPTIONS.values()} == {5}


@pytest.mark.parametrize("name", [
    "gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "saturate", "jpeg_compression", "pixelate",
])
def test_what_draws_nothing_is_the_librarys_within_a_level(name, data_dir):
    """imagecorruptions-imaug 1.1.5, severities 1, 3 and 5."""
    expected = np.load(data_dir / "imagecorruptions.npz")
    for severity, wanted in zip((1, 3, 5), expected[name]):
        found = corrupt(expected["image"], name, severity, np.random.default_rng(0))
        assert np.abs(found.astype(int) - wanted).max() <= 1, severity


@pytest.mark.parametrize("severity, blur, share, value, scale", [
    (1, 1, 0.6, 0.1, 0.4), (2, 2, 0.5, 0.2, 0.3), (3, 3, 0.4, 0.3, 0.2), (4, 4, 0.3, 0.4, 0.1), (5, 6, 0.25, 0.5, 0.05),
])
def test_blur_blocks_brightness_and_contrast_have_their_numbers(severity, blur, share, value, scale):
    point = np.zeros((81, 81, 3))
    point[40, 40] = 1
    along = changed("gaussian_blur", severity, point)[:, :, 0].sum(axis=1)
    assert (along * (np.arange(81) - 40.0) ** 2).sum() == pytest.approx(blur**2, rel=0.02)
    ramp = np.broadcast_to(np.linspace(0, 1, 100)[:, None, None], (100, 40, 3))
    assert len(np.unique(changed("pixelate", severity, ramp)[:, 0, 0])) == int(100 * share)
    assert changed("brightness", severity, np.full((2, 2, 3), 0.3)) == pytest.approx(0.3 + value, abs=1e-6)
    assert np.ptp(changed("contrast", severity, ramp)) == pytest.approx(scale, abs=1e-6)


@pytest.mark.parametrize("severity, factor, more", [(1, 0.3, 0), (2, 0.1, 0), (3, 2, 0), (4, 5, 0.1), (5, 20, 0.2)])
def test_saturation_is_multiplied_and_moved(severity, factor, more):
    colour = np.float32([0.8, 0.7, 0.8]).reshape(1, 1, 3)  # of saturation 1/8
    saturation = cv2.cvtColor(np.float32(changed("saturate", severity, colour)), cv2.COLOR_RGB2HSV)[0, 0, 1]
    assert saturation == pytest.approx(min(1, 0.125 * factor + more), abs=1e-3)


@pytest.mark.parametrize("severity, quality", [(1, 25), (2, 18), (3, 15), (4, 10), (5, 7)])
def test_jpeg_files_have_their_quality(severity, quality, monkeypatch):
    qualities, save = [], Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *a, **o: qualities.append(o["quality"]) or save(*a, **o))
    corrupt(of_grey(90, 16), "jpeg_compression", severity, np.random.default_rng(0))
    assert qualities == [quality]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_is_as_strong_as_it_should_be(severity):
    half = np.full((120, 120, 3), 0.5)
    for name, wanted in (("gaussian_noise", GAUSSIAN[severity - 1]), ("speckle_noise", SPECKLE[severity - 1] / 2)):
        assert (changed(name, severity, half) - half).std() == pytest.approx(wanted, rel=0.03)
    photons = PHOTONS[severity - 1]
    found = changed("shot_noise", severity, half)
    assert np.allclose(found * photons, np.rint(found * photons), atol=1e-4)
    assert (found.mean(), found.var()) == pytest.approx((0.5, 0.5 / photons), rel=0.03)
    share = SALT_AND_PEPPER[severity - 1]
    found = changed("impulse_noise", severity, half)
    assert ((found == 0).mean(), (found == 1).mean()) == pytest.approx((share / 2, share / 2), rel=0.1)
    assert ((found == 0.5).mean()) == pytest.approx(1 - share, abs=0.005)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_copies_pixel_by_pixel_from_below_and_from_the_right(severity):
    """As ImageNet-C's loop does, whose rows of numpy are views."""
    sigma, far, rounds = GLASS[severity - 1]
    assert CORRUPTIONS["glass_blur"].numbers[severity - 1] == (sigma, far, rounds)
    x, rng = np.float32(np.random.default_rng(1).random((20, 14, 3))), np.random.default_rng(0)
    expected = corruptions.blurred(x, sigma)
    for _ in range(rounds):
        down, right = rng.integers(-far, far, (2, 20 - 2 * far, 14 - 2 * far))
        for i, row in enumerate(range(20 - far, far, -1)):
            for j, column in enumerate(range(14 - far, far, -1)):
                expected[row, column] = expected[row + down[i, j], column + right[i, j]]
    found = corruptions.glass_blur(x, np.random.default_rng(0), sigma, far, rounds)
    np.testing.assert_allclose(found, corruptions.blurred(expected, sigma), atol=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_falls_as_a_gaussian_along_a_line_of_one_direction(severity):
    radius, sigma = MOTION[severity - 1]
    assert CORRUPTIONS["motion_blur"].numbers[severity - 1] == (radius, sigma)
    point = np.zeros((101, 101), np.float32)
    point[50, 50] = 1
    spread = motion_blurred(point, radius, sigma, 0)
    line = spread[50, 50 - 2 * radius:51][::-1]
    assert spread.sum() == pytest.approx(1, abs=1e-5) and line.sum() == pytest.approx(1, abs=1e-5)
    assert line / line[0] == pytest.approx(np.exp(-np.arange(2 * radius + 1) ** 2 / (2 * sigma**2)), abs=1e-4)
    upright = motion_blurred(point, radius, sigma, 90)
    assert upright[:, 50].sum() == pytest.approx(1, abs=1e-5)
    angles = {int(np.argmax(changed("motion_blur", severity, np.dstack([point] * 3), seed)[20])) for seed in range(5)}
    assert len(angles) > 1


def test_a_zoom_keeps_the_corners_of_the_middle():
    ramp = np.float32(np.arange(30)[:, None] + np.zeros(20))
    for factor in (1.0, 1.3, 2.5):
        inner = int(np.ceil(30 / factor))
        top, found = (30 - inner) // 2, zoomed(ramp, factor)
        assert found.shape[0] >= 30 and found.shape[1] >= 20
        assert found[[0, -1], 0].tolist() == pytest.approx([top, top + inner - 1], abs=0.05)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_has_its_weight_and_its_decay(severity):
    weight, decay = FOG[severity - 1]
    found = changed("fog", severity, np.ones((64, 64, 3)))
    assert (found.min(), found.max()) == pytest.approx((1 / (1 + weight), 1), abs=1e-5)
    assert CORRUPTIONS["fog"].numbers[severity - 1][1] == decay
    cloud = weather.plasma(256, decay, np.random.default_rng(0))

    def noise(heights):
        """The middles of squares less the mean of their corners."""
        pairs = heights[::2, ::2] + np.roll(heights[::2, ::2], -1, axis=0)
        return (heights[1::2, 1::2] - (pairs + np.roll(pairs, -1, axis=1)) / 4).std()

    assert noise(cloud[::2, ::2]) / noise(cloud) == pytest.approx(decay**2, rel=0.05)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_is_a_sum_of_image_and_pane(severity):
    kept, added = FROST[severity - 1]
    black, grey = (changed("frost", severity, np.full((40, 20, 3), level)) for level in (0, 0.25))
    assert grey - black == pytest.approx(0.25 * kept, abs=1e-6)
    panes = [weather.frosted(number) for number in range(5)]
    assert any(cv2.matchTemplate(pane, black / np.float32(added), cv2.TM_SQDIFF).min() < 1e-3 for pane in panes)


def test_a_pane_is_enlarged_for_a_large_image():
    assert changed("frost", 1, np.zeros((20, 600, 3))).shape == (20, 600, 3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_pales_the_image_and_falls_from_both_sides(severity):
    kept = SNOW_KEPT[severity - 1]
    black, white = (changed("snow", severity, np.full((64, 32, 3), level)) for level in (0, 1))
    assert white - black == pytest.approx(1.5 - 0.5 * kept, abs=1e-5)
    flakes = black - (1 - kept) / 2
    assert flakes.min() > -1e-6 and flakes.max() > 0.1 and flakes == pytest.approx(flakes[::-1, ::-1], abs=1e-6)
    mean, sigma, zoom, least, radius, motion, _ = CORRUPTIONS["snow"].numbers[severity - 1]
    assert (mean, sigma, zoom, least, radius, motion) == (
        (0.1, 0.3, 3, 0.5, 10, 4), (0.2, 0.3, 2, 0.5, 12, 4), (0.55, 0.3, 4, 0.9, 12, 8), (0.55, 0.3, 4.5, 0.85, 12, 8),
        (0.55, 0.3, 2.5, 0.85, 12, 12),
    )[severity - 1]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_spatter_is_water_and_from_the_fourth_severity_mud(severity):
    if severity < 4:
        found = changed("spatter", severity, np.zeros((64, 64, 3)))
        assert found.max(axis=(0, 1)) == pytest.approx(SPATTER[severity - 1] * weather.WATER, abs=1e-3)
        return
    covered = (1 - changed("spatter", severity, np.ones((64, 64, 3)))) / (1 - weather.MUD)
    assert covered == pytest.approx(covered[:, :, :1].repeat(3, axis=2), abs=1e-5)
    assert 0 < (covered > 0.5).mean() < 1 and not ((covered > 1e-5) & (covered < 0.8 - 1e-5)).any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_rain_has_its_drops_and_its_darkness(severity):
    area, length, darker = RAIN[severity - 1]
    wet = changed("rain", severity, np.zeros((300, 300, 3))) + darker
    drops = 300 * 300 // area
    per_drop = wet[:, :, 0].sum() / (200 / 255) / drops  # less where drops cross, and at the border
    assert 0.75 * length < per_drop <= length + 1.01
    assert wet.min() == pytest.approx(0, abs=1e-6)
    box = 2 + severity
    each = -np.log(1 - (wet[:, :, 0] > 1e-6).mean()) * 300**2 / drops  # pixels that a drop wets, as they lie anywhere
    assert 0.85 * box * (length + box) < each < 1.1 * (length * (2 * box - 1) + box**2)  # upright to slanted


def test_an_image_of_sixty_rows_is_enlarged_for_rain():
    assert changed("rain", 5, np.zeros((60, 30, 3))).shape == (65, 32, 3)
    assert changed("rain", 5, np.zeros((61, 30, 3))).shape == (61, 30, 3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_moves_are_as_large_as_they_should_be(severity):
    """On a ramp, the change of the value is the move. The deviation of smoothed noise is that of a kernel's sum."""
    height, width = 200, 100
    ramp = np.broadcast_to(np.arange(width)[None, :, None] / width, (height, width, 3))
    moved = (changed("elastic_transform", severity, ramp) - ramp)[20:-20, 20:-20, 0] * width
    point = np.zeros((height, width))
    point[100, 50] = 1
    kernel = corruptions.gaussian_filter(point, (2, 1), truncate=3)
    wanted = 250 * ELASTIC[severity - 1] * 0.005 * height / 3**0.5 * np.sqrt((kernel**2).sum())
    assert moved.std() == pytest.approx(wanted, rel=0.12)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_of_any_size_are_taken(name):
    for height, width in ((1, 1), (3, 2), (70, 1), (12, 31)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = [corrupt(image, name, severity, np.random.default_rng(7)) for severity in SEVERITIES]
        assert all(x.dtype == np.uint8 and x.ndim == 3 for x in found)
        assert name == "rain" or all(x.shape == image.shape for x in found)
        assert (corrupt(image, name, 5, np.random.default_rng(7)) == found[-1]).all()


# Which image gets which corruption


@pytest.fixture(scope="module")
def visible(shared_data):
    return [Record(str(path), 1, 1, False) for path in sorted((shared_data / "cam1").rglob("*.jpg"))]


def images_of(records, read, workers, batch):
    loader, _ = eval_loaders(records, 48, 24, batch, workers, False, read=read)[0]
    return torch.cat([images for images, _ in loader])


@pytest.mark.parametrize("order", ORDERS)
def test_processes_and_batches_change_no_image(order, shared_data, visible):
    read = CorruptedReader(shared_data.as_posix(), order, seed=3, repeat=1)
    alone = images_of(visible, read, workers=0, batch=5)
    assert torch.equal(alone, images_of(visible, read, workers=2, batch=2))
    assert torch.equal(alone.flip(0), images_of(visible[::-1], read, workers=0, batch=1))


def test_corruptions_and_severities_are_drawn_evenly_by_seed_repeat_and_path():
    def drawn(number, root="/a", seed=0, repeat=0):
        reader = CorruptedReader(root, "resized", seed, repeat)
        return [reader.drawn(f"{root}/cam1/{i}.jpg")[:2] for i in range(number)]

    first = drawn(2000)
    names, severities = (Counter(part) for part in zip(*first))
    assert len(names) == 20 and 65 < min(names.values()) and max(names.values()) < 140
    assert len(severities) == 5 and 330 < min(severities.values()) and max(severities.values()) < 470
    assert drawn(100, root="/elsewhere") == first[:100]
    for other in (drawn(300, seed=1), drawn(300, repeat=1)):
        assert sum(a == b for a, b in zip(first, other)) < 15  # one in a hundred by chance


def test_the_resized_image_is_corrupted_or_the_files_own(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    path, small = str(tmp_path / "a.png"), Image.fromarray(pixels).resize((16, 32), Image.Resampling.LANCZOS)

    def read(order):
        return CorruptedReader(tmp_path.as_posix(), order, 0, only=("contrast", 2))(path, 32, 16)

    rng = np.random.default_rng(0)
    assert (read("resized") == corrupt(np.asarray(small), "contrast", 2, rng)).all()
    native = Image.fromarray(corrupt(pixels, "contrast", 2, rng)).resize((16, 32), Image.Resampling.LANCZOS)
    assert (read("native") == np.asarray(native)).all() and (read("native") != read("resized")).any()
    for order in ORDERS:
        assert CorruptedReader(tmp_path.as_posix(), order, 0, only=("rain", 1))(path, 24, 12).shape == (24, 12, 3)


def test_noise_is_the_same_at_each_severity(tmp_path):
    Image.fromarray(of_grey(128, 40)).save(tmp_path / "a.png")
    first, second = (
        CorruptedReader(tmp_path.as_posix(), "native", 0, only=("gaussian_noise", severity))(
            str(tmp_path / "a.png"), 40, 40
        ).astype(float) - 128
        for severity in (1, 2)
    )
    assert np.abs(second - 1.5 * first).max() < 3


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no image .*gone.jpg; where a data set lists it"):
        CorruptedReader(tmp_path.as_posix(), "native", 0)(str(tmp_path / "gone.jpg"), 8, 8)


def test_the_sheet_shows_each_corruption_in_each_severity(tmp_path):
    Image.fromarray(of_grey(90, 24)).save(tmp_path / "day.png")
    arguments = "--image", tmp_path / "day.png", "--height", 24, "--width", 12, "--output", tmp_path / "sheet.png"
    run("scripts/corruption_sheet.py", *arguments)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 12 * 12 and sheet.height > 10 * 24
    assert run("scripts/corruption_sheet.py", "--output", tmp_path / "sheet.txt", check=False).returncode == 1


def test_the_benchmark_times_every_corruption():
    small = "--images", 2, "--size", 24, 12, "--file-size", 32, 16, "--workers", 0, "--rounds", 1
    said = run("scripts/benchmark_corruptions.py", *small).stdout
    assert all(f"\n{name} " in said for name in CORRUPTIONS) and "the same, corrupted, native: " in said
