"""An image that a browser sends: checked before it is decoded, and whether it looks like one by night."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.formats import contents
from data.pixels import in_rgb

FORMATS = contents()      # by content, as of the gallery's images
MOST_BYTES = 20 << 20
MOST_PIXELS = 50_000_000  # of a decoded image: 150 MB
TINTED = 12               # of 255: by how much the channels of a coloured pixel differ
COLOURED = 0.03           # the share of coloured pixels from which an image is one by day
LOOKED_AT = 64            # pixels in a row and a column, of means: noise of sensor and JPEG is no colour


class UploadError(ValueError):
    """The upload is no image that can be searched for; the message says why."""


def read_upload(content: bytes) -> Image.Image:
    """The image in RGB, turned as its EXIF tag says; of several frames the first.

    raises   UploadError
    """
    if not content:
        raise UploadError("the file is empty; choose an image")
    if len(content) > MOST_BYTES:
        raise UploadError(f"the file has {len(content) / 1e6:.0f} MB; {MOST_BYTES / 1e6:.0f} MB are allowed")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise UploadError(
                    f"the image has {width} x {height} pixels; {MOST_PIXELS // 10**6} million are allowed: make it "
                    "smaller, or cut the person out"
                )
            return in_rgb(image)
    except UploadError:
        raise
    except UnidentifiedImageError:
        raise UploadError(f"the file is no image of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise UploadError("the image has far too many pixels: make it smaller, or cut the person out") from None
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds for broken files
        raise UploadError(f"the image is cut off or damaged ({error})") from None


def looks_infrared(image: Image.Image) -> bool:
    """Whether an RGB image has no colours but one tint: that of a camera by night, or none."""
    pixels = np.asarray(image.resize((LOOKED_AT, LOOKED_AT), Image.Resampling.BOX), np.float32)
    tint = pixels - pixels.mean(axis=2, keepdims=True)         # (H, W, 3): what differs from grey
    tint -= np.median(tint, axis=(0, 1))                       # the tint that all pixels share
    return float((np.ptp(tint, axis=2) > TINTED).mean()) < COLOURED
