"""What is done to training images: named steps, and pipelines of them, as DATA.VISIBLE and DATA.INFRARED write them.

docs/method.md section 8. What a step does to pixels is in data/pixels.py and data/rectangles.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import AugMix
from yacs.config import CfgNode

from common.options import MOST_EPOCHS, Option, option
from data.pixels import (
    RESIZES,
    adapt_channels,
    adjust_brightness,
    adjust_hue,
    chance,
    exchange_channels,
    gaussian_blur,
    grey_level,
    jitter_colours,
    jitter_light,
    mix_channels,
    normalise,
    random_crop,
    to_grey,
    uniform,
)
from data.rectangles import ChannelCutMix, RandomErasing


def read_size(data: CfgNode) -> tuple[int, int]:
    """Height and width that training images have when the pipelines get them.

    data   the DATA section of the configuration
    """
    height, width = data.READ_SIZE
    return height or data.HEIGHT, width or data.WIDTH


def jitter(image: np.ndarray, out: np.ndarray) -> np.ndarray:
    return jitter_colours(image)


def brightness(by: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return adjust_brightness(image, uniform(1 - by, 1 + by))

    return change


def pad(pixels: int, fill: int) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return cv2.copyMakeBorder(image, pixels, pixels, pixels, pixels, cv2.BORDER_CONSTANT, value=[fill] * 3)

    return change


def grey(p: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(to_grey(image), cv2.COLOR_GRAY2RGB) if chance(p) else image

    return change


def crop(image: np.ndarray, out: np.ndarray) -> np.ndarray:
    return random_crop(image, *out.shape[:2])


def resize(how: str) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        height, width = out.shape[:2]
        return np.array(Image.fromarray(image).resize((width, height), RESIZES[how]))

    return change


def jitter_or_blur(p: float, brightness: float, contrast: float, radius: int, sigma: list[float]) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if chance(p):
            return jitter_light(image, brightness, contrast)
        return gaussian_blur(image, radius, uniform(*sigma))

    return change


def flip(p: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return cv2.flip(image, 1) if chance(p) else image

    return change


def hue(p: float, most: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return adjust_hue(image, uniform(-most, most)) if chance(p) else image

    return change


def weighted_grey(p: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return mix_channels(image, torch.rand(3).tolist()) if chance(p) else image

    return change


def spectrum_jitter(p: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if not chance(p):
            return image
        channel, kept = int(torch.randint(3, (1,))), torch.rand(1).item()
        one = np.repeat(image[:, :, channel, None], 3, axis=2)
        return cv2.addWeighted(image, kept, one, 1 - kept, 0)

    return change


def channel_mix(p: float, alpha: float) -> "Change":
    weights = torch.distributions.Beta(alpha, alpha)

    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return mix_channels(image, weights.sample((3,)).tolist()) if chance(p) else image

    return change


def augmix(p: float, severity: int, chains: int, depth: int, alpha: float) -> "Change":
    mix = AugMix(severity, chains, depth or -1, alpha, all_ops=False)  # True has what a test's corruptions are, too

    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if not chance(p):
            return image
        return mix(torch.tensor(image.transpose(2, 0, 1))).permute(1, 2, 0).contiguous().numpy()

    return change


def one_of(steps: list) -> "Change":
    changes = [STEPS[name].make(**{key: value for key, value in numbers.items() if key not in EPOCHS})
               for name, numbers in map(read_step, steps)]

    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return changes[int(torch.randint(len(changes), (1,)))](image, out)

    return change


def to_network(image: np.ndarray, out: np.ndarray) -> np.ndarray:
    normalise(image, out)
    return out


def exchange(grey: bool, p: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if p == 1 or chance(p):
            exchange_channels(image, grey)
        return image

    return change


def adapt(image: np.ndarray, out: np.ndarray) -> np.ndarray:
    adapt_channels(image)
    return image


def green(p: float, grey: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if chance(p):
            image[:] = image[:, :, 1, None].copy()
        elif chance(grey):
            image[:] = grey_level(image)
        return image

    return change


def dim(p: float, least: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if chance(p):
            image *= np.array([uniform(least, 1) for _ in range(3)], image.dtype)
        return image

    return change


# (image (H', W', 3), out (H, W, 3) float32) -> image: of uint8 until `normalise` fills `out`, which it is from then on.
Change = Callable[[np.ndarray, np.ndarray], np.ndarray]
P = option(0.5, "probability", at_least=0, at_most=1)


class Steps(Option):
    """An option whose value is a list of steps that take an image of uint8 and leave its size as it is."""

    kind = "steps"
    allowed = "a list of steps that come before normalise and leave the size as it is, with their numbers"

    def read(self, value: Any) -> Any:
        try:
            return [written(*read_step(step)) for step in value] if isinstance(value, (list, tuple)) else value
        except (TypeError, ValueError):
            return value  # which is refused

    def refusal(self, value: object) -> str:
        if not isinstance(value, list) or not value:
            return f"; it is {self.allowed}"
        try:
            steps = [*map(read_step, value)]
        except ValueError as error:
            return f": {error}"
        for name, numbers in steps:
            if STEPS[name].normalised is not False or name in ("pad", "crop", "resize"):
                return f": {name} is none of those; it is {self.allowed}"
            if any(numbers[key] != EPOCHS[key].default for key in EPOCHS):
                return f": {name} has epochs of its own; set those of the whole"
        return ""


class Step(NamedTuple):
    """A named step of a pipeline."""

    explanation: str
    make: Callable[..., Change]            # of its numbers
    numbers: Mapping[str, Option] = {}     # by name; the first may be written alone
    normalised: bool | None = False        # whether it takes the normalised image, or the one of uint8; None: between


STEPS = {
    "jitter": Step("colour jitter (0.5, 0.5, 0.5, 0.5)", lambda: jitter),
    "pad": Step("a border on each side", pad, {
        "pixels": option(10, "its width", at_least=0, at_most=1000),
        "fill": option(0, "its grey level", at_least=0, at_most=255),
    }),
    "grey": Step("the image loses its colours", grey, {"p": P}),
    "crop": Step("a random part of the network's size", lambda: crop),
    "resize": Step("to the network's size, without keeping the aspect ratio", resize, {
        "how": option("bilinear", "as DATA.RESIZE", one_of=tuple(RESIZES)),
    }),
    "jitter_or_blur": Step("one of both: jitter of the light, or Gaussian blur", jitter_or_blur, {
        "p": option(0.5, "probability of the jitter, of the blur the rest", at_least=0, at_most=1),
        "brightness": option(0.3, "its factor is between 1 - this and 1 + this", at_least=0, at_most=1),
        "contrast": option(0.3, "likewise", at_least=0, at_most=1),
        "radius": option(10, "pixels that the blur reaches", at_least=1, at_most=100),
        "sigma": option([0.1, 3.0], "smallest and largest deviation of the blur", at_least=0.01, at_most=100,
                        rising=True),
    }),
    "flip": Step("left and right are exchanged", flip, {"p": P}),
    "brightness": Step("the image times a number around 1", brightness, {
        "by": option(0.5, "how far from 1 at most", at_least=0, at_most=1),
    }),
    "hue": Step("all hues are moved along their circle", hue, {
        "p": P,
        "most": option(0.2, "by a part of the circle, this at most", at_least=0, at_most=0.5),
    }),
    "weighted_grey": Step("all channels become their mean, by weights that are drawn", weighted_grey, {"p": P}),
    "channel_mix": Step("all channels become their mean, by weights of a Beta distribution (RLE)", channel_mix, {
        "p": P,
        "alpha": option(0.5, "of Beta(alpha, alpha); below 1, one or two channels prevail", at_least=0.01, at_most=100),
    }),
    "augmix": Step("AugMix: chains of distortions, blended with each other and with the image", augmix, {
        "p": option(1.0, "probability", at_least=0, at_most=1),
        "severity": option(3, "of the distortions", at_least=1, at_most=10),
        "chains": option(3, "how many are blended", at_least=1, at_most=10),
        "depth": option(0, "distortions in a chain; 0: 1 to 3, drawn evenly", at_least=0, at_most=10),
        "alpha": option(1.0, "of the Dirichlet and Beta distributions of the blend", at_least=0.01, at_most=100),
    }),
    "channel_cutmix": Step("a rectangle of one channel in another one, which then is all three", ChannelCutMix, {
        "p": P,
        "area": option([0.02, 0.33], "its smallest and largest part of the image", above=0, below=1, rising=True),
        "aspect": option([0.3, 3.3], "least and greatest height over width", at_least=0.01, at_most=100, rising=True),
        "tries": option(10, "after so many that don't fit there is no rectangle", at_least=1, at_most=1000),
        "swapped": option(True, "it is drawn for an image of exchanged height and width, as in MCJA's code"),
    }),
    "spectrum_jitter": Step("a blend with one of its channels", spectrum_jitter, {"p": P}),
    "one_of": Step("one of some steps, drawn evenly", one_of, {
        "steps": Steps(["hue", "weighted_grey", "channel_cutmix", "spectrum_jitter"], "the steps, of which each then "
                       "acts or not by its own probability"),
    }),
    "normalise": Step("to [0, 1], then ImageNet's normalisation", lambda: to_network, normalised=None),
    "erase": Step("a rectangle is filled", RandomErasing, {
        "p": P,
        "area": option([0.2, 0.8], "its smallest and largest part of the image", above=0, below=1, rising=True),
        "fill": option([0.485, 0.456, 0.406], "what it leaves, by channel", at_least=-10, at_most=10),
        "aspect": option([0.3, 1 / 0.3], "least and greatest height over width", at_least=0.01, at_most=100,
                         rising=True),
        "tries": option(0, "after so many that don't fit it gives up; 0: an error", at_least=0, at_most=1000),
        "even_log": option(False, "the ratio's logarithm is drawn evenly, as torchvision does, not the ratio"),
        "before_normalise": option(False, "fill is that of the image in [0, 1], not of the normalised one"),
    }, normalised=True),
    "exchange": Step("CAJ's channel exchange: all channels become one of them", exchange, {
        "grey": option(False, "or their grey"),
        "p": option(1.0, "probability", at_least=0, at_most=1),
    }, normalised=True),
    "adapt": Step("CAJ's channel adaption with grey, for infrared images", lambda: adapt, normalised=True),
    "green": Step("all channels become the second one", green, {
        "p": P,
        "grey": option(0.5, "else, with this probability, their grey", at_least=0, at_most=1),
    }, normalised=True),
    "dim": Step("each channel is multiplied by a number of its own", dim, {
        "p": P,
        "least": option(0.02, "least number; the greatest is 1", at_least=0, at_most=1),
    }, normalised=True),
}
EPOCHS = {  # of every step: the epochs, from 0, in which it acts
    "from": option(0, "first epoch", at_least=0, at_most=MOST_EPOCHS),
    "until": option(MOST_EPOCHS, "the epoch after the last one", at_least=0, at_most=MOST_EPOCHS),
}


def read_step(step: object) -> tuple[str, dict]:
    """The name and all numbers of a step: `flip`, {"flip": 0.3} or {"erase": {"p": 0.3, "area": [0.1, 0.2]}}.

    raises   ValueError that says what is wrong
    """
    name, given = next(iter(step.items())) if isinstance(step, dict) and len(step) == 1 else (step, {})
    if not isinstance(name, str) or name not in STEPS:
        raise ValueError(f"{step!r} is no step; steps are {', '.join(STEPS)}")
    known = {**STEPS[name].numbers, **EPOCHS}
    if not isinstance(given, dict):
        given = {next(iter(known)): given}
    numbers: dict[str, Any] = {key: number.default for key, number in known.items()}
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{name} has no {key}; it has {', '.join(known)}")
        value = known[key].read(value)
        refusal = known[key].refusal(value)
        if refusal:
            raise ValueError(f"{name} has {key} {value!r}{refusal}")
        numbers[key] = value
    if numbers["from"] >= numbers["until"]:
        raise ValueError(f"{name} acts from epoch {numbers['from']} until {numbers['until']}, which is never")
    return name, numbers


def written(name: str, numbers: dict) -> str | dict:
    """A step as short as it can be written."""
    usual = {**STEPS[name].numbers, **EPOCHS}
    own = {key: value for key, value in numbers.items() if value != usual[key].default}
    return {name: own} if own else name


def shortest(views: list[list]) -> list[list]:
    """Pipelines, each step with those of its numbers alone that are not the usual ones."""
    return [[written(*read_step(step)) for step in view] for view in views]


def check_pipeline(steps: object) -> None:
    """
    raises   ValueError for what is no pipeline: `normalise` once, each step on its side of it, images of one size
    """
    if not isinstance(steps, list):
        raise ValueError(f"{steps!r} is no list of steps")  # noqa: TRY004 - the one kind that a wrong pipeline raises
    names = []
    for name, numbers in map(read_step, steps):
        names.append(name)
        if name in ("crop", "resize", "normalise") and any(numbers[key] != EPOCHS[key].default for key in EPOCHS):
            raise ValueError(f"{name} acts in every epoch: without it there is no image of the network's size")
    if names.count("normalise") != 1:
        raise ValueError("a view needs normalise once")
    middle = names.index("normalise")
    for i, name in enumerate(names):
        if STEPS[name].normalised is not None and STEPS[name].normalised != (i > middle):
            raise ValueError(f"{name} comes {'after' if STEPS[name].normalised else 'before'} normalise")
    if "pad" in names and not {"crop", "resize"} & {*names[len(names) - names[::-1].index("pad"):]}:
        raise ValueError("after pad comes crop or resize, which brings the image back to its size")


class Views(Option):
    """An option whose value is a list of views, each a list of steps."""

    kind = "views"
    allowed = f"a list of views, each a list of the steps {', '.join(STEPS)}, with their numbers"

    def read(self, value: Any) -> Any:
        try:
            lists = all(isinstance(view, (list, tuple)) for view in value)  # not the keys of a mapping
            return shortest(value) if lists else value
        except (TypeError, ValueError):
            return value  # which is refused

    def refusal(self, value: object) -> str:
        if not isinstance(value, list) or not value:
            return f"; it is {self.allowed}"
        try:
            for view in value:
                check_pipeline(view)
        except ValueError as error:
            return f": {error}"
        return ""


class OneView(Views):
    """A list of one such list."""

    allowed = Views.allowed.replace("views, each a list", "one view, a list")

    def refusal(self, value: object) -> str:
        one = isinstance(value, list) and len(value) == 1
        return super().refusal(value) or ("" if one else f"; it is {self.allowed}")


class Pipeline:
    """What is done to a training image, step by step.

    image       (H', W', 3) uint8
    out         (H, W, 3) float32, is overwritten
    epoch       from 0
    """

    def __init__(self, steps: Sequence):
        self.written, self.steps = steps, []
        for step in steps:
            name, numbers = read_step(step)
            epochs = range(numbers.pop("from"), numbers.pop("until"))
            self.steps.append((epochs, STEPS[name].make(**numbers)))

    def __reduce__(self) -> tuple:
        return Pipeline, (self.written,)  # on its way to a loader's process

    def __call__(self, image: np.ndarray, out: np.ndarray, epoch: int = 0) -> None:
        for epochs, change in self.steps:
            if epoch in epochs:
                image = change(image, out)
