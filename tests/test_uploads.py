"""What the search page takes as an image, and what it knows of the cameras and times of a gallery."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from trees import coloured

from assembly.search_page import uploads
from assembly.search_page.details import DetailsError, camera_in, details_of, read_table, time_in
from assembly.search_page.uploads import UploadError, looks_infrared, read_upload
from data.dataset import open_benchmark
from data.pixels import read_image


def as_bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def huge_png(side: int) -> bytes:
    """A few kilobytes that decode into side x side pixels."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(64) * 1000)  # they needn't be whole: nothing is to be decoded
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", uploads.FORMATS)
def test_formats_are_told_by_content(kind):
    image = read_upload(as_bytes(coloured(), kind))
    assert image.mode == "RGB" and image.size == (6, 12)


def test_an_upload_is_turned_and_its_grey_values_scaled():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_upload(as_bytes(coloured(), "JPEG", exif=exif)).size == (12, 6)
    deep = read_upload(as_bytes(Image.fromarray(np.arange(72, dtype=np.uint16).reshape(12, 6) * 300)))
    assert deep.getextrema() == ((0, 255),) * 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("content, message", [
    (b"", "the file is empty; choose an image"),
    (b"no image", "the file is no image of a known format (JPEG, PNG"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the file is no image of a known format"),
    (as_bytes(coloured(), "GIF"), "the file is no image of a known format"),
    (as_bytes(coloured())[:150], "the image is cut off or damaged"),
    (as_bytes(coloured(), "JPEG")[:-40], "the image is cut off or damaged"),
    (huge_png(8000), "the image has 8000 x 8000 pixels; 50 million are allowed: make it smaller"),
    (huge_png(20000), "the image has far too many pixels: make it smaller, or cut the person out"),
])
def test_an_upload_that_is_no_image(content, message):
    with pytest.raises(UploadError, match=re.escape(message)):
        read_upload(content)


def test_day_and_night_are_told_by_colours(shared_data):
    for record in open_benchmark("synthetic", shared_data).test:
        assert looks_infrared(read_image(record.path)) == record.infrared, record.path
    grey = np.random.default_rng(0).integers(0, 200, (40, 20, 1), dtype=np.uint8)
    tinted = Image.fromarray(np.concatenate([grey, grey, grey + 40], axis=2))
    assert looks_infrared(tinted) and not looks_infrared(coloured().resize((60, 120)))


# Cameras and times


@pytest.mark.parametrize("name, camera, time", [
    ("cam3/0001/0002.jpg", "3", "NaT"), ("0007_c03_s001_f1_vis.jpg", "3", "NaT"),
    ("0002_c1s1_000451_03.jpg", "1", "NaT"), ("Camera-12/a.png", "12", "NaT"), ("cam1/c2.jpg", "2", "NaT"),
    ("abc3.jpg", "", "NaT"), ("c0ffee.jpg", "", "NaT"), ("a/20240501_134510.jpg", "", "2024-05-01T13:45:10"),
    ("2024-05-01 13.45.jpg", "", "2024-05-01T13:45:00"), ("x2024-05-01T13-45-10Z.jpg", "", "2024-05-01T13:45:10"),
    ("20241301_134510.jpg", "", "NaT"), ("120240501134510.jpg", "", "NaT"),
])
def test_a_name_says_camera_and_time(name, camera, time):
    assert camera_in(name) == camera and str(time_in(name)) == time


def test_a_table_goes_before_names(tmp_path):
    (tmp_path / "a.csv").write_text(
        "\ufefftime,image,camera\n2024-05-01T13:45:10,cam1/a.jpg,hall\n,cam1/b.jpg,\n2024-05-02,c.jpg,\n"
    )
    cameras, times = details_of(["cam1/a.jpg", "cam1/b.jpg", "c.jpg", "d.jpg"], read_table(tmp_path / "a.csv"))
    assert cameras.tolist() == ["hall", "1", "", ""]
    assert [str(time) for time in times] == ["2024-05-01T13:45:10", "NaT", "2024-05-02T00:00:00", "NaT"]


@pytest.mark.parametrize("content, message", [
    ("image;camera\na;1\n", "has the columns image;camera; it needs image, and camera or time or both, separated by"),
    ("", "has the columns (none); it needs image"),
    ("image,time\na.jpg,2024-05-01\nb.jpg,noon\n", "line 3: 'noon' is no time such as 2024-05-01T13:45:10"),
    (b"\xff\xfe", "cannot be read ("),
])
def test_a_table_that_is_none(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DetailsError, match=re.escape(message)):
        read_table(tmp_path / "a.csv")
