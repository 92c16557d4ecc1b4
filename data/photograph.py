"""Photographs of drawn people: how a camera of the embedded data set sees a person (data/figure.py) once.

Position, distance, pose, view, background, light, mirroring and noise are drawn anew for every image, by a generator
that knows nothing of the person, so none of them tells who it is.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from data.figure import BACKGROUND, Person, View, color, draw_body, second_material

SUPERSAMPLING = 3
PART_COLORS = np.array([  # of body shapes, by region: background and bag are no part of a body
    (0, 0, 0), (0, 0, 128), (128, 0, 0), (0, 128, 0), (128, 128, 0), (128, 0, 128), (0, 0, 0),
], np.uint8)


class Camera:
    """What a camera keeps through all images: its light, its place, and how far people walk by."""

    def __init__(self, rng: np.random.Generator):
        self.light = rng.uniform(0.85, 1.1, 3)
        self.scene = np.stack([color(rng, level, 0.2) for level in rng.uniform(0.25, 0.8, 2)])  # wall, floor
        self.horizon = rng.uniform(0.5, 0.8)
        self.distance = rng.uniform(0.80, 0.92)
        self.height = rng.uniform(-0.1, 0.3)  # from above, heads are larger than feet
        self.blur = rng.uniform(0.3, 0.7)


def take_view(person: Person, camera: Camera, rng: np.random.Generator, height: int, width: int) -> View:
    """Somewhere in the image, near or far."""
    size = height * person.stature * camera.distance * rng.uniform(0.86, 1.06)
    return View(
        shape=(height, width),
        size=size,
        left=width * rng.uniform(0.35, 0.65),
        top=(height - size) * rng.uniform(0, 1),
        lean=rng.uniform(-0.08, 0.08),
        squeeze=rng.uniform(0.85, 1.05),
        taper=camera.height,
    )


def draw_backdrop(camera: Camera, view: View, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3): wall and floor of the place, this time with other things in it, and the body's shadow."""
    height, width = view.shape
    wall, floor = np.clip(camera.scene + rng.normal(0, 0.25, (2, 1)), 0.05, 0.95)
    image = Image.new("RGB", (width, height), as_bytes(wall))
    draw = ImageDraw.Draw(image)
    line = height * (camera.horizon + rng.uniform(-0.06, 0.06))
    draw.rectangle((0, line, width, height), fill=as_bytes(floor))
    for _ in range(rng.integers(1, 5)):  # doors, windows, posts, bushes
        x, y = width * rng.uniform(-0.2, 1), height * rng.uniform(-0.2, 0.8)
        box = (x, y, x + width * rng.uniform(0.1, 0.6), y + height * rng.uniform(0.05, 0.4))
        shape = draw.rectangle if rng.random() < 0.6 else draw.ellipse
        shape(box, fill=as_bytes(color(rng, rng.uniform(0.1, 0.9), 0.3)))
    (x, y), = view.to_image([(0, 0.97)])
    draw.ellipse((x - 0.2 * view.size, y - 0.03 * view.size, x + 0.2 * view.size, y + 0.03 * view.size),
                 fill=as_bytes(0.6 * floor))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(SUPERSAMPLING)), dtype=np.float32) / 255


def as_bytes(rgb: np.ndarray) -> tuple[int, ...]:
    return tuple((255 * rgb).astype(int).tolist())


def render(
    person: Person, camera: Camera, infrared: bool, rng: np.random.Generator, height: int, width: int
) -> tuple[Image.Image, Image.Image]:
    """One image and its body shape, (height, width) in RGB; infrared images have three equal channels, as SYSU-MM01's.

    The shape is what a perfect human parser would cut out: the body, each part of it in a colour that says which.
    """
    view = take_view(person, camera, rng, SUPERSAMPLING * height, SUPERSAMPLING * width)
    regions = draw_body(person, view, rng)
    second = second_material(person, view, regions, rng)
    x, y = view.to_body()
    backdrop = draw_backdrop(camera, view, rng)
    if infrared:
        values = person.reflectances[regions, second][..., None]
        backdrop = backdrop.mean(axis=2, keepdims=True)
    else:
        values = person.colors[regions, second]
    values = values * (1.05 - 4 * np.minimum(np.abs(x), 0.3) ** 2)[..., None]  # a body is round: darker to its sides
    values = np.where((regions == BACKGROUND)[..., None], backdrop, values)

    # Light comes from somewhere: one side is brighter, or the head, or the feet. Without that, brightness alone would
    # tell people apart: half of those who are pale above and dark below by day happen to be so by night.
    slope = rng.uniform(-1.0, 1.0, 2)
    values = values * np.maximum(0.25, 1 + slope[0] * x + slope[1] * (y - 0.5))[..., None]
    if infrared:  # a lamp beside the lens: bright in the middle
        values = values * (1 - rng.uniform(0.1, 0.5) * ((y - 0.45) ** 2 + x**2))[..., None] * rng.uniform(0.75, 1.15)
        values = np.repeat(values, 3, axis=2)
    else:
        values = values * camera.light * rng.uniform(0.75, 1.2)
    image = Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8))
    blur = SUPERSAMPLING * camera.blur * rng.uniform(0.5, 1.5)
    image = image.filter(ImageFilter.GaussianBlur(blur)).resize((width, height), Image.Resampling.BOX)
    noise = rng.normal(0, rng.uniform(1, 4), (height, width, 1 if infrared else 3))
    pixels = np.asarray(image) + noise
    shape = Image.fromarray(PART_COLORS[regions]).resize((width, height), Image.Resampling.BOX)
    if rng.random() < 0.5:
        pixels, shape = pixels[:, ::-1], ImageOps.mirror(shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), shape
