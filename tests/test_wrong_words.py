"""What a program hands to `vireid` by mistake is refused in a sentence: silence would be a wrong ranking."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from assembly import api as vireid

ROWS = np.float32([[1, 0], [0, 1], [1, 1]])


@pytest.mark.parametrize("options, message", [
    # Words and numbers are never equal: nothing would be ignored.
    ({"gallery_cameras": [1, 2, 3], "ignores": ["1"] * 3}, "an entry of ignores is '1'; cameras are whole numbers"),
    ({"gallery_cameras": ["door"] * 3, "ignores": ["door"] * 3}, "gallery_cameras is \"['door', 'door', 'door']\"; "),
    ({"gallery_cameras": [1, 2, 3], "ignores": [None] * 3}, "an entry of ignores is 'None'; cameras are whole numbers"),
    ({"gallery_cameras": [1.0, np.nan, 3], "ignores": [1] * 3}, "gallery_cameras is '[1.0, nan, 3]'; cameras are"),
    ({"gallery_cameras": [[1], [2, 3], [3]], "ignores": [1] * 3}, "gallery_cameras is '[[1], [2, 3], [3]]'; "),
    ({"gallery_cameras": [1, 2, 3], "ignores": 1}, "ignores is <class 'int'>; it is a list with an entry for each row"),
    ({"rerank": "aim", "aim": (4,)}, "aim is (4,); its two numbers are 1 at least"),
    ({"rerank": "aim", "aim": 4}, "aim is 4; its two numbers are 1 at least"),
    ({"top": True}, "top is True; it is a whole number"),
])
def test_options_of_a_ranking(options, message):
    with pytest.raises(vireid.ERRORS, match=re.escape(message)):
        vireid.rank(ROWS, ROWS, **options)


@pytest.mark.parametrize("rows", [None, "a", np.array([[None]]), 1j * ROWS])
def test_rows_that_are_no_numbers(rows):
    with pytest.raises(vireid.ERRORS, match="queries is <class .*> that holds no real numbers"):
        vireid.rank(rows, ROWS)


def test_cameras_of_every_kind_and_none():
    cameras = [1, -1, 2]  # the second one's is unknown, which is no camera to be ignored
    kinds = [1, -1, 2], torch.tensor([1, -1, 2]), np.array([[1], [-1], [2]]), [{1}, set(), [2]], [[1], [-1], (2,)]
    for ignores in kinds:
        order, _ = vireid.rank(ROWS, ROWS, gallery_cameras=torch.tensor(cameras), ignores=ignores)
        assert [sorted(line[line >= 0].tolist()) for line in order] == [[1, 2], [0, 1, 2], [0, 1]]
    assert vireid.rank(ROWS, ROWS, top=np.int64(2)).order.shape == (3, 2)


@pytest.mark.parametrize("run, options", [
    (None, {}), (3, {}), ("run", "TEST.FLIP False"), ("run", ["TEST.FLIP", False]),
])
def test_a_run_is_a_path_and_options_a_dictionary(run, options):
    with pytest.raises(vireid.ERRORS, match="they are a path, and a dictionary of options by their keys"):
        vireid.load(run, options=options)


def test_images_without_pixels_and_modalities_of_several_lengths(trained):
    net = vireid.load(trained("quickstart_base"), device="cpu", batch=np.int64(2))
    with pytest.raises(vireid.ERRORS, match="image 0 is .*Image'>; an image is a path, .* that has pixels"):
        net.embed(Image.new("RGB", (0, 0)), infrared=True)
    with pytest.raises(vireid.ERRORS, match="it is True or False, or a list with a value of each image"):
        net.embed([Image.new("RGB", (2, 2))], infrared=[[True], [True, False]])
