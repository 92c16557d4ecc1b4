"""Drawn people for the embedded data set: who a person is, and where they show in an image.

A person is shape (build, hair, garments, bag) and materials. A material has a colour for visible cameras and a
reflectance for infrared ones, drawn independently of each other, so what both modalities show is shape and pattern.
data/photograph.py takes the images.

Points of the body are in heights of the body: y from the top of the head down, x from the middle to the right.
"""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

# What a pixel shows. Each of them has two materials; its texture says where the second one shows.
BACKGROUND, SKIN, HEAD, TOP, BOTTOM, SHOES, BAG = range(7)

HAIR = ("short", "long", "bun", "hat", "hood", "curls", "plaits")
TOP_ENDS = (0.44, 0.54, 0.74)  # waist, hip, coat
SLEEVE_ENDS = (0.1, 0.45, 1.0)  # of the arm: none, short, long
LEGS = ("trousers", "flared trousers", "shorts", "skirt", "long skirt")
BAGS = ("none", "backpack", "handbag", "sling", "trolley")
HAIR_COLORS = ((0.10, 0.09, 0.08), (0.32, 0.21, 0.13), (0.80, 0.64, 0.38), (0.52, 0.24, 0.12), (0.62, 0.61, 0.60))
SKIN_COLOR = np.array([0.93, 0.72, 0.58])

# Where the second material shows, on half of the cloth: functions of u and v, which are x and y in periods of the
# texture. No garment is brighter than another by its pattern, and none has a place: a cloth hangs otherwise each time.
TEXTURES = {
    "horizontal": lambda u, v: v % 1 < 0.5,
    "vertical": lambda u, v: u % 1 < 0.5,
    "diagonal": lambda u, v: (u + v) * 0.7 % 1 < 0.5,
    "checks": lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
    "diamonds": lambda u, v: ((u + v) * 0.7 % 1 < 0.5) ^ ((u - v) * 0.7 % 1 < 0.5),
    "dots": lambda u, v: (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.5 / np.pi,
    "zigzag": lambda u, v: (v + np.abs(u % 1 - 0.5)) % 1 < 0.5,
    "waves": lambda u, v: (u + 0.25 * np.sin(2 * np.pi * v)) % 1 < 0.5,
}
PERIODS = (0.09, 0.14, 0.22)


class Person:
    """What an identity keeps through all images.

    colors        (7, 2, 3) of its materials in visible light, 0 to 1, by region
    reflectances  (7, 2) of the same in infrared light, 0 to 1; independent of the colours
    """

    def __init__(self, rng: np.random.Generator):
        self.build = rng.uniform(0.75, 1.4)
        self.stature = rng.uniform(0.92, 1.0)
        self.stride = rng.uniform(0.02, 0.12)
        self.hair = rng.choice(HAIR)
        self.top_end = rng.choice(TOP_ENDS)
        self.sleeve_end = rng.choice(SLEEVE_ENDS)
        self.legs = rng.choice(LEGS)
        self.bag = rng.choice(BAGS)
        self.textures = {region: rng.choice([*TEXTURES]) for region in (TOP, BOTTOM)}
        self.periods = {region: rng.choice(PERIODS) for region in (TOP, BOTTOM)}

        self.colors = np.stack([[color(rng, level) for level in two_levels(rng)] for _ in range(7)])
        self.colors[SKIN] = SKIN_COLOR * rng.uniform(0.3, 1.05)
        if self.hair != "hat":
            self.colors[HEAD] = rng.choice(HAIR_COLORS)
        self.reflectances = np.stack([two_levels(rng) for _ in range(7)])
        self.reflectances[SKIN] = rng.uniform(0.25, 0.95)  # no tone that all share: bare legs would tell by it


def two_levels(rng: np.random.Generator) -> np.ndarray:
    """(2,) brightnesses that differ visibly; which one is the brighter is a coin's throw."""
    dark = rng.uniform(0.05, 0.3)
    return rng.permutation([dark, rng.uniform(dark + 0.5, 0.95)])


def color(rng: np.random.Generator, level: float, strongest: float = 0.6) -> np.ndarray:
    """(3,) a colour of that brightness and of any hue."""
    hue = np.array(colorsys.hsv_to_rgb(rng.uniform(), 1, 1))
    return np.clip(level + rng.uniform(0, strongest) * (hue - hue @ [0.299, 0.587, 0.114]), 0, 1)


@dataclass(frozen=True)
class View:
    """Where an image shows the points of the body."""

    shape: tuple[int, int]  # height and width of the image, in pixels
    size: float             # of the body, in pixels
    left: float             # of the body's middle, in pixels
    top: float              # of its head, in pixels
    lean: float             # how far to the right of the head the feet stand
    squeeze: float          # of the width, seen more or less from the side
    taper: float            # how much wider the head is shown than the feet, by a camera above

    def scale(self, y: Any) -> Any:
        """How wide things of width 1 are shown at that height of the body."""
        return self.squeeze * (1 + self.taper * (0.5 - y))

    def to_image(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [
            (self.left + self.size * (x * self.scale(y) + self.lean * (y - 0.5)), self.top + self.size * y)
            for x, y in points
        ]

    def to_body(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y, each (height, width), of the body's point that each pixel shows."""
        y, x = np.mgrid[: self.shape[0], : self.shape[1]].astype(np.float32)
        y = (y - self.top) / self.size
        x = (x - self.left) / self.size - self.lean * (y - 0.5)
        return x / self.scale(y), y


class Pen:
    """Draws regions of the body into an image of region numbers."""

    def __init__(self, view: View):
        self.view = view
        self.image = Image.new("L", view.shape[::-1], BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Iterable[tuple[float, float]], region: int) -> None:
        self.draw.polygon(self.view.to_image(points), fill=region)

    def ellipse(self, x: float, y: float, rx: float, ry: float, region: int) -> None:
        angles = np.linspace(0, 2 * np.pi, 24)
        self.polygon(zip(x + rx * np.cos(angles), y + ry * np.sin(angles)), region)

    def limb(self, start: np.ndarray, end: np.ndarray, radius: float, region: int) -> None:
        """A thick line with round ends."""
        along = end - start
        across = radius * np.array([-along[1], along[0]]) / np.hypot(*along)
        self.polygon([start + across, start - across, end - across, end + across], region)
        for x, y in (start, end):
            self.ellipse(x, y, radius, radius, region)


def draw_body(person: Person, view: View, rng: np.random.Generator) -> np.ndarray:
    """(height, width): the region that each pixel shows, in a pose of this moment. Drawn from the back forwards."""
    pen = Pen(view)
    shoulder, hip = 0.115 * person.build, 0.095 * person.build
    step = person.stride * rng.uniform(-1, 1)
    swings = rng.uniform(-0.01, 0.05, 2)

    if person.bag == "backpack":
        top, end = shoulder + 0.05, shoulder + 0.07
        pen.polygon([(-top, 0.20), (top, 0.20), (end, 0.47), (-end, 0.47)], BAG)
    if person.hair == "long":
        pen.polygon([(-0.07, 0.05), (0.07, 0.05), (0.095, 0.26), (-0.095, 0.26)], HEAD)
    if person.hair == "bun":
        pen.ellipse(0, 0.0, 0.035, 0.035, HEAD)
    if person.hair == "curls":
        pen.ellipse(0, 0.07, 0.115, 0.10, HEAD)

    for side in (-1, 1):
        thigh, foot = np.array([side * hip * 0.52, 0.48]), np.array([side * (hip * 0.55 + step), 0.95])
        thickness = 0.043 * person.build**0.5
        pen.limb(thigh, foot, thickness * 0.85, BOTTOM if "trousers" in person.legs else SKIN)
        if person.legs == "flared trousers":
            knee = thigh + 0.45 * (foot - thigh)
            pen.polygon([(knee[0] - 0.04, knee[1]), (knee[0] + 0.04, knee[1]), (foot[0] + 0.085, foot[1]),
                         (foot[0] - 0.085, foot[1])], BOTTOM)
        if person.legs == "shorts":
            pen.limb(thigh, thigh + 0.40 * (foot - thigh), thickness * 1.3, BOTTOM)
        pen.ellipse(foot[0] + 0.01 * side, 0.965, 0.048, 0.03, SHOES)
    if person.legs in ("skirt", "long skirt"):
        end, flare = (0.68, 1.6) if person.legs == "skirt" else (0.88, 1.8)
        pen.polygon([(-hip, 0.46), (hip, 0.46), (hip * flare, end), (-hip * flare, end)], BOTTOM)
    pen.polygon([(-hip, 0.42), (hip, 0.42), (hip, 0.55), (-hip, 0.55)], BOTTOM)

    hem = hip * (1.05 if person.top_end < 0.6 else 1.5)
    pen.polygon([(-shoulder, 0.19), (-0.045, 0.155), (0.045, 0.155), (shoulder, 0.19), (hip, 0.42),
                 (hem, person.top_end), (-hem, person.top_end), (-hip, 0.42)], TOP)
    hands = []
    for side, swing in zip((-1, 1), swings):
        start, hand = np.array([side * shoulder * 0.92, 0.20]), np.array([side * (shoulder + 0.035 + swing), 0.51])
        pen.limb(start, hand, 0.027, SKIN)
        pen.limb(start, start + person.sleeve_end * 0.95 * (hand - start), 0.034, TOP)
        hands.append(hand)

    if person.bag == "backpack":
        for side in (-1, 1):
            pen.limb(np.array([side * 0.06, 0.17]), np.array([side * 0.075, 0.36]), 0.014, BAG)
    elif person.bag == "handbag":
        x, y = hands[1]
        pen.polygon([(x - 0.06, y + 0.03), (x + 0.06, y + 0.03), (x + 0.085, y + 0.17), (x - 0.085, y + 0.17)], BAG)
    elif person.bag == "sling":
        pen.limb(np.array([-shoulder * 0.6, 0.18]), np.array([hip, 0.46]), 0.016, BAG)
        pen.ellipse(hip, 0.50, 0.075, 0.06, BAG)
    elif person.bag == "trolley":
        x, y = hands[0]
        pen.limb(np.array([x, y]), np.array([x - 0.03, 0.74]), 0.010, BAG)
        pen.polygon([(x - 0.11, 0.70), (x + 0.04, 0.70), (x + 0.04, 0.96), (x - 0.11, 0.96)], BAG)

    pen.polygon([(-0.03, 0.10), (0.03, 0.10), (0.04, 0.17), (-0.04, 0.17)], SKIN)
    if person.hair == "plaits":
        for side in (-1, 1):
            pen.limb(np.array([side * 0.06, 0.08]), np.array([side * 0.095, 0.27]), 0.022, HEAD)
    pen.ellipse(0, 0.075, *((0.080, 0.100) if person.hair == "hood" else (0.062, 0.075)),
                TOP if person.hair == "hood" else HEAD)
    pen.ellipse(0, 0.092, 0.048, 0.058, SKIN)
    if person.hair == "hat":
        pen.polygon([(-0.11, 0.062), (0.11, 0.062), (0.11, 0.042), (0.065, 0.042), (0.055, -0.01), (-0.055, -0.01),
                     (-0.065, 0.042), (-0.11, 0.042)], HEAD)
    return np.asarray(pen.image)


def second_material(person: Person, view: View, regions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(height, width) int, 0 or 1: which of its region's two materials each pixel shows."""
    x, y = view.to_body()
    second = np.zeros(regions.shape, dtype=np.intp)
    for region, name in person.textures.items():
        here, period = regions == region, person.periods[region]
        fold = rng.uniform(0, 1, 2)  # cloth hangs otherwise each time
        second[here] = TEXTURES[name](x[here] / period + fold[0], y[here] / period + fold[1])
    return second
