import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from data import transforms
from data.records import DataError
from data.transforms import MEAN, RandomErasing, open_image, train_transform


def test_images_are_resized_by_lanczos_without_their_aspect_ratio(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(pixels).resize((12, 24), Image.Resampling.LANCZOS))
    image = open_image(str(tmp_path / "a.png"), 24, 12)
    assert image.dtype == torch.uint8 and (image.permute(1, 2, 0).numpy() == expected).all()


def test_a_grey_picture_becomes_three_equal_channels(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.jpg")
    image = open_image(str(tmp_path / "grey.jpg"), 8, 8)
    assert image.shape == (3, 8, 8) and (image == image[:1]).all()


def test_broken_pictures_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    (tmp_path / "words.jpg").write_text("not a picture")
    for name in ("cut.jpg", "words.jpg"):
        with pytest.raises(DataError, match=f"{name} is broken or no image"):
            open_image(str(tmp_path / name), 8, 8)
    with pytest.raises(DataError, match="there is no image .*absent.jpg"):
        open_image(str(tmp_path / "absent.jpg"), 8, 8)


def test_the_test_pipeline_normalises_and_nothing_else():
    image = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    out = transforms.eval_transform()(image)
    torch.testing.assert_close(out[:, 0, 0], (1 - torch.tensor(MEAN)) / torch.tensor(transforms.STD))


def test_the_order_of_the_training_pipeline():
    kinds = [type(t).__name__ for t in train_transform(8, 4, jitter=True, erasing_area=(0.2, 0.8)).transforms]
    assert kinds == ["ToPILImage", "ColorJitter", "PILToTensor", "Pad", "RandomGrayscale", "RandomCrop",
                     "RandomHorizontalFlip", "ToDtype", "Normalize", "RandomErasing"]
    assert "ColorJitter" not in str(train_transform(8, 4, jitter=False, erasing_area=(0.2, 0.8)))


def test_training_images_by_statistics():
    """Half are mirrored, half grey, half erased; and crops reach ten pixels into the black border, evenly."""
    image = torch.full((3, 40, 24), 128, dtype=torch.uint8)
    image[0] += torch.arange(24, dtype=torch.uint8)  # brighter to the right, red differs from the rest
    pipeline = train_transform(40, 24, jitter=False, erasing_area=(0.02, 0.4))
    count, grey, mirrored, erased, tops = 1500, 0, 0, 0, []
    fill, black = torch.tensor(MEAN), -torch.tensor(MEAN) / torch.tensor(transforms.STD)
    for _ in range(count):
        out = pipeline(image)
        assert out.shape == (3, 40, 24) and out.dtype == torch.float32
        erased_here = (out - fill.view(3, 1, 1)).abs().amax(0) < 1e-6
        border = (out - black.view(3, 1, 1)).abs().amax(0) < 1e-5
        erased += bool(erased_here.any())
        clean = ~(erased_here | border)
        pixels = out * torch.tensor(transforms.STD).view(3, 1, 1) + fill.view(3, 1, 1)
        grey += bool(((pixels[0] - pixels[1]).abs() < 1e-3)[clean].all())
        columns = torch.arange(24).expand(40, 24)[clean].float()
        mirrored += bool(((columns - columns.mean()) * (pixels[0][clean] - pixels[0][clean].mean())).sum() < 0)
        tops.append(int(border.all(dim=1)[:20].sum()))
    for share in (grey, mirrored, erased):
        assert share / count == pytest.approx(0.5, abs=0.05)
    tops = np.bincount(tops, minlength=11) / count
    assert tops[0] == pytest.approx(11 / 21, abs=0.06) and len(tops) == 11 and tops[1:].min() > 0.02


def rectangles(area, count=3000):
    erase, image = RandomErasing(area, fill=(9.0, 9.0, 9.0)), torch.zeros(3, 60, 30)
    sizes = []
    for _ in range(count):
        hit = erase(image)[0] == 9
        if hit.any():
            sizes.append((int(hit.any(1).sum()), int(hit.any(0).sum())))
    assert not (image == 9).any()  # the input stays
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
    with pytest.raises(DataError, match="DATA.ERASING_AREA is .*0.8, 0.2"):
        train_transform(8, 4, False, (0.8, 0.2))
    with pytest.raises(DataError, match=r"\[0.98, 0.99\], and no such part fits into 10x10 pixels"):
        RandomErasing((0.98, 0.99), probability=1.0)(torch.zeros(3, 10, 10))  # at most 9 by 9 fit


def test_every_step_is_one_of_torchvision_v2_or_ours():
    for step in train_transform(8, 4, True, (0.2, 0.8)).transforms:
        assert isinstance(step, (v2.Transform, RandomErasing))
