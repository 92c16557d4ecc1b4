"""An image on disk becomes the network's input."""

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision import transforms as v1

from data.pixels import MEAN, RESIZES, STD, eval_transform, open_image
from data.records import DataError


def test_images_are_resized_by_lanczos_without_their_aspect_ratio(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(pixels).resize((12, 24), Image.Resampling.LANCZOS))
    image = open_image(str(tmp_path / "a.png"), 24, 12)
    assert image.dtype == np.uint8 and image.shape == (24, 12, 3) and (image == expected).all()



def test_a_grey_image_becomes_three_equal_channels(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "grey.jpg")
    image = open_image(str(tmp_path / "grey.jpg"), 8, 8)
    assert image.shape == (8, 8, 3) and (image == image[:, :, :1]).all()



@pytest.mark.parametrize("dtype, name", [
    (np.uint16, "a.png"), (np.uint16, "a.tif"), (np.int32, "a.tif"), (np.float32, "a.tif"),
])
def test_more_than_8_bits_go_from_the_least_to_the_greatest_value(tmp_path, dtype, name):
    values = np.array([[1000, 1051], [1102, 1255]])  # 255 steps apart at most
    Image.fromarray(values.astype(dtype)).save(tmp_path / name)
    image = open_image(str(tmp_path / name), 2, 2)
    assert (image == (values - 1000)[:, :, None]).all() and image.dtype == np.uint8 and image.shape == (2, 2, 3)



def test_one_grey_value_is_black_and_one_that_is_no_number_an_error(tmp_path):
    Image.fromarray(np.full((2, 2), 700, dtype=np.uint16)).save(tmp_path / "even.png")
    assert (open_image(str(tmp_path / "even.png"), 2, 2) == 0).all()
    Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(DataError, match="nan.tif is broken .*some of its grey values are not finite"):
        open_image(str(tmp_path / "nan.tif"), 2, 2)



@pytest.mark.parametrize("orientation, turned", [
    (1, [[1, 2], [3, 4]]), (2, [[2, 1], [4, 3]]), (3, [[4, 3], [2, 1]]), (4, [[3, 4], [1, 2]]), (5, [[1, 3], [2, 4]]),
    (6, [[3, 1], [4, 2]]), (7, [[4, 2], [3, 1]]), (8, [[2, 4], [1, 3]]),
])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_are_turned_as_their_tag_says(tmp_path, orientation, turned, dtype):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray((85 * np.array([[0, 1], [2, 3]])).astype(dtype)).save(tmp_path / "a.png", exif=exif)
    assert (open_image(str(tmp_path / "a.png"), 2, 2)[:, :, 0] == 85 * (np.array(turned) - 1)).all()



def test_broken_images_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    (tmp_path / "words.jpg").write_text("not an image")
    for name in ("cut.jpg", "words.jpg"):
        with pytest.raises(DataError, match=f"{name} is broken or no image"):
            open_image(str(tmp_path / name), 8, 8)
    Image.fromarray(pixels).save(tmp_path / "moving.gif")
    (tmp_path / "moving.gif").rename(tmp_path / "moving.jpg")
    Image.fromarray(pixels).save(tmp_path / "one.gif")
    for name in ("moving.jpg", "one.gif"):  # the content decides, in a gallery and of a query
        with pytest.raises(DataError, match=f"{name} is broken or no image .its content is none of JPEG, PNG"):
            open_image(str(tmp_path / name), 8, 8)
    with pytest.raises(DataError, match="there is no image .*absent.jpg; where a data set lists it"):
        open_image(str(tmp_path / "absent.jpg"), 8, 8)
    with pytest.raises(DataError, match="is a folder, not an image: name the images in it"):
        open_image(str(tmp_path), 8, 8)



def test_the_test_pipeline_normalises_and_nothing_else():
    image = np.full((2, 2, 3), 255, dtype=np.uint8)
    out = eval_transform(image)
    torch.testing.assert_close(out[:, 0, 0], (1 - torch.tensor(MEAN)) / torch.tensor(STD))
    every = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)  # 256 is no multiple of 3: each value in each channel
    expected = v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])(every)
    assert torch.equal(eval_transform(every), expected)



@pytest.mark.parametrize("resize, kind", [
    ("bilinear", Image.Resampling.BILINEAR), ("lanczos", Image.Resampling.LANCZOS),
])
def test_a_resize_is_that_of_pillow(tmp_path, resize, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(pixels).resize((12, 24), kind))
    assert (open_image(str(tmp_path / "a.png"), 24, 12, resize) == expected).all()
    others = [open_image(str(tmp_path / "a.png"), 24, 12, other) for other in RESIZES if other != resize]
    assert others and all((other != expected).any() for other in others)
