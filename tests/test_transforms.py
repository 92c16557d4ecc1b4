"""Whole pipelines, beside torchvision's and by statistics; and steps, but for those that erase or change colours."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from steps import UNERASED, after, change, normalised, ours, photograph
from torchvision import transforms as v1

from configs.load import load_config
from data import pixels
from data.pixels import MEAN, STD, eval_transform
from data.transforms import STEPS, Pipeline, check_pipeline, read_step, shortest


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


def unerased(jitter: bool) -> Pipeline:
    return Pipeline([*(["jitter"] if jitter else []), *UNERASED])


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
    """Each of four operations rounds; what hue does to saturated colours differs most (test_colours.py)."""
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


def test_a_pipeline_is_the_same_in_another_process():
    image, steps = photograph(40, 24), ["jitter", *UNERASED, {"erase": {"p": 1, "until": 2}}, "exchange"]
    original, copied = Pipeline(steps), pickle.loads(pickle.dumps(Pipeline(steps)))
    for epoch in (1, 2):
        torch.manual_seed(3)
        expected = ours(image, original, epoch)
        torch.manual_seed(3)
        assert torch.equal(ours(image, copied, epoch), expected) and expected.isfinite().all()


# Steps


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


def test_a_step_acts_in_its_epochs_alone():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :2] = 200
    plain, mirrored = ours(image, Pipeline(["normalise"])), ours(image[:, ::-1], Pipeline(["normalise"]))
    pipeline = Pipeline([{"flip": {"p": 1, "from": 2, "until": 5}}, "normalise"])
    acts = [torch.equal(ours(image, pipeline, epoch), mirrored) for epoch in range(7)]
    assert acts == [False, False, True, True, True, False, False]
    assert all(torch.equal(ours(image, pipeline, epoch), plain) for epoch in (0, 1, 5, 6, 99_999))
    assert torch.equal(ours(image, Pipeline([{"flip": {"p": 1, "from": 2}}, "normalise"]), 99_999), mirrored)


def test_one_of_takes_each_step_alike_and_its_own_numbers():
    step = {"one_of": [{"grey": 1.0}, {"flip": 1.0}]}
    image = photograph()
    grey = [bool((change(step, image, seed) == change({"grey": 1.0}, image)).all()) for seed in range(100)]
    assert 30 < sum(grey) < 70
    assert read_step("one_of")[1]["steps"] == ["hue", "weighted_grey", "channel_cutmix", "spectrum_jitter"]
    assert shortest([[{"one_of": {"steps": [{"hue": {"most": 0.2}}, {"grey": 0.5}]}}, "normalise"]]) == [
        [{"one_of": {"steps": ["hue", "grey"]}}, "normalise"]
    ]
