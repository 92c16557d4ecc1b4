"""From a picture on disk to the network's input: the training and the test pipeline side by side.

docs/method.md section 8. Pictures are resized by Pillow (Lanczos, as a rule); from there on they are (H, W, 3) uint8
arrays in RGB, on which OpenCV is several times faster than Pillow, until one table lookup normalises them. Random
numbers come from torch's default generator, in the order in which torchvision's transforms draw them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from common.options import MOST_EPOCHS, Option, option
from data.records import DataError

ImageFile.LOAD_TRUNCATED_IMAGES = False
cv2.setNumThreads(0)  # a loader has one process for each core already, and OpenCV's threads do not survive a fork
RESIZES = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}  # antialiased, both
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
NORMALISED = (np.arange(256, dtype=np.float32)[:, None, None] / 255 - np.float32(MEAN)) / np.float32(STD)  # (256, 1, 3)


def read_size(data) -> tuple[int, int]:
    """Height and width that training images have when the pipelines get them.

    data   the DATA section of the configuration
    """
    height, width = data.READ_SIZE
    return height or data.HEIGHT, width or data.WIDTH


def open_image(path: str, height: int, width: int, resize: str = "lanczos") -> np.ndarray:
    """(height, width, 3) uint8: the picture in RGB, resized without keeping its aspect ratio.

    resize   one of RESIZES

    It is turned as its EXIF tag says. Grey values of more than 8 bits (16- or 32-bit integers, floats) are scaled
    linearly, the picture's least to 0 and its greatest to 255.

    raises   DataError naming a file that is missing, unreadable, empty, truncated or no picture
    """
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)  # costs nothing where there is no tag
            if image.mode.startswith(("I", "F")):
                image = in_8_bits(np.asarray(image, np.float64))
            resized = image.convert("RGB").resize((width, height), RESIZES[resize])
    except FileNotFoundError:
        raise DataError(f"there is no image {path}, although the data set lists it; is the copy complete?") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        if isinstance(error, OSError) and error.errno is not None:  # the system's own, not Pillow's
            raise DataError(f"{path} could not be read ({error.strerror}); look at its permissions and disk") from None
        raise DataError(f"{path} is broken or no image ({error}); replace it from the original data set") from None
    return np.asarray(resized)


def in_8_bits(values: np.ndarray) -> Image.Image:
    """(H, W) -> a grey picture, the least value black and the greatest white; black where all are equal."""
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("some of its grey values are not finite")
    return Image.fromarray(np.uint8(np.rint((values - low) * (255 / ((high - low) or 1)))))


class RandomErasing:
    """Fills a rectangle of the normalised image with a constant per channel.

    Its part of the area and its aspect ratio (height over width) are drawn uniformly, until it fits into the image.
    (That of torchvision draws the ratio's logarithm uniformly.)

    p         probability that it does
    area      smallest and largest part of the image's area
    fill      by channel
    aspect    smallest and largest aspect ratio
    before_normalise
              the fill is that of an image in [0, 1], erased before it is normalised
    tries     after so many the image stays as it is; 0: after a thousand, an error
    even_log  draw the ratio's logarithm uniformly
    raises    DataError for an area that no image has, and where nothing fits in a thousand tries
    """

    def __init__(
        self, p: float, area: list[float], fill: list[float], aspect: list[float], tries: int, even_log: bool = False,
        before_normalise: bool = False,
    ):
        self.p, self.area, self.fill, self.tries = p, area, fill, tries
        self.aspect, self.even_log = (np.log(aspect).tolist() if even_log else aspect), even_log
        if before_normalise:  # no level of uint8 is such a fill, so its value after normalisation is left
            self.fill = [(value - mean) / std for value, mean, std in zip(fill, MEAN, STD)]
        if not 0 < area[0] <= area[1] < 1:
            raise DataError(f"erase has the area {list(area)}; it needs 0 < smallest <= largest < 1")

    def __call__(self, image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if chance(self.p):
            place = self.place(*image.shape[:2])
            if place is not None:
                top, left, height, width = place
                bottom_right = (left + width - 1, top + height - 1)  # inclusive
                cv2.rectangle(image, (left, top), bottom_right, self.fill, cv2.FILLED)
        return image

    def place(self, rows: int, columns: int) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of the rectangle, in an image of so many pixels."""
        for _ in range(self.tries or 1000):  # six in ten tries fit at the paper's sizes
            ranges, drawn = (self.area, self.aspect), torch.rand(2).tolist()
            area, ratio = (low + part * (high - low) for (low, high), part in zip(ranges, drawn))
            area, ratio = area * rows * columns, np.exp(ratio).item() if self.even_log else ratio
            height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < height < rows and 0 < width < columns:
                top = torch.randint(rows - height + 1, (1,)).item()
                left = torch.randint(columns - width + 1, (1,)).item()
                return top, left, height, width
        if self.tries:
            return None
        raise DataError(f"erase has the area {self.area}, and no such part fits into {rows}x{columns} pixels")


def jitter(image: np.ndarray, out: np.ndarray) -> np.ndarray:
    return jitter_colours(image)


def brightness(by: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return adjust_brightness(image, uniform(1 - by, 1 + by))

    return change


def pad(pixels: int, fill: int) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return cv2.copyMakeBorder(image, *[pixels] * 4, cv2.BORDER_CONSTANT, value=[fill] * 3)

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


class ChannelCutMix:
    """A rectangle of one channel is pasted into another one, which then is all three (MCJA).

    swapped   as in its authors' code, the rectangle is drawn for an image of exchanged height and width: in an upright
              one it lies in the upper part, and what is beyond the right edge is cut off
    """

    def __init__(self, p: float, area: list[float], aspect: list[float], tries: int, swapped: bool):
        self.p, self.swapped = p, swapped
        self.rectangle = RandomErasing(1.0, area, [], aspect, tries, even_log=True)

    def __call__(self, image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if not chance(self.p):
            return image
        under, over = torch.randperm(3)[:2].tolist()
        channel, (rows, columns) = image[:, :, under].copy(), image.shape[:2]
        place = self.rectangle.place(*((columns, rows) if self.swapped else (rows, columns)))
        if place is not None:
            top, left, height, width = place
            inside = slice(top, top + height), slice(left, left + width)
            channel[inside] = image[*inside, over]
        return cv2.cvtColor(channel, cv2.COLOR_GRAY2RGB)


def spectrum_jitter(p: float) -> "Change":
    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if not chance(p):
            return image
        channel, kept = torch.randint(3, (1,)).item(), torch.rand(1).item()
        one = np.repeat(image[:, :, channel, None], 3, axis=2)
        return cv2.addWeighted(image, kept, one, 1 - kept, 0)

    return change


def one_of(steps: list) -> "Change":
    changes = [STEPS[name].make(**{key: value for key, value in numbers.items() if key not in EPOCHS})
               for name, numbers in map(read_step, steps)]

    def change(image: np.ndarray, out: np.ndarray) -> np.ndarray:
        return changes[torch.randint(len(changes), (1,)).item()](image, out)

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

    def read(self, value: object) -> object:
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
    numbers: dict[str, Option] = {}        # by name; the first may be written alone
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
    known = STEPS[name].numbers | EPOCHS
    if not isinstance(given, dict):
        given = {next(iter(known)): given}
    numbers = {key: number.default for key, number in known.items()}
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
    usual = STEPS[name].numbers | EPOCHS
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
        raise ValueError(f"{steps!r} is no list of steps")
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

    def read(self, value: object) -> object:
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

    def __reduce__(self):
        return Pipeline, (self.written,)  # on its way to a loader's process

    def __call__(self, image: np.ndarray, out: np.ndarray, epoch: int = 0) -> None:
        for epochs, change in self.steps:
            if epoch in epochs:
                image = change(image, out)


def eval_transform(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32; the mirrored image is the network's business."""
    out = torch.empty(image.shape)
    normalise(image, out.numpy())
    return out.permute(2, 0, 1)


def chance(probability: float) -> bool:
    return torch.rand(1).item() < probability


def uniform(low: float, high: float) -> float:
    return low + torch.rand(1).item() * (high - low)


def normalise(image: np.ndarray, out: np.ndarray) -> None:
    """uint8 to [0, 1], then ImageNet's normalisation: (H, W, 3) into `out`, float32 of the same shape."""
    cv2.LUT(image, NORMALISED, dst=out)


def to_grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W) uint8."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def jitter_colours(image: np.ndarray) -> np.ndarray:
    """Brightness, contrast, saturation and hue in a random order, each by a random factor."""
    order = torch.randperm(4).tolist()
    brightness, contrast, saturation, hue = torch.rand(4).tolist()
    steps = (
        (adjust_brightness, 0.5 + brightness), (adjust_contrast, 0.5 + contrast), (adjust_saturation, 0.5 + saturation),
        (adjust_hue, hue - 0.5),
    )
    for i in order:
        adjust, factor = steps[i]
        image = adjust(image, factor)
    return image


def jitter_light(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Brightness and contrast in a random order, each by a factor that differs from 1 by so much at most."""
    steps = (adjust_brightness, brightness), (adjust_contrast, contrast)
    for i in torch.randperm(2).tolist():
        adjust, most = steps[i]
        image = adjust(image, uniform(1 - most, 1 + most))
    return image


def gaussian_blur(image: np.ndarray, radius: int, sigma: float) -> np.ndarray:
    """(H, W, 3) uint8, mirrored at its border without repeating the outermost pixels."""
    return cv2.GaussianBlur(image, (2 * radius + 1, 2 * radius + 1), sigma, borderType=cv2.BORDER_REFLECT_101)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """The image blended with black."""
    return cv2.addWeighted(image, factor, image, 0, 0)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """The image blended with the mean of its grey version."""
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * round(cv2.mean(to_grey(image))[0]))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """The image blended with its grey version."""
    return cv2.addWeighted(image, factor, cv2.cvtColor(to_grey(image), cv2.COLOR_GRAY2RGB), 1 - factor, 0)


def adjust_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """The image with all hues moved along their circle, by a part of it."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(round(turn * 256) % 256)  # the circle has 256 steps, so uint8 goes round it
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def mix_channels(image: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """(H, W, 3) -> (H, W, 3) uint8: all channels become their weighted mean. Not all weights are 0."""
    mix = np.array([weights]) / max(sum(weights), np.finfo(np.float32).tiny)
    return cv2.transform(image, np.repeat(mix, 3, axis=0))


def random_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top = torch.randint(image.shape[0] - height + 1, (1,)).item()
    left = torch.randint(image.shape[1] - width + 1, (1,)).item()
    return image[top:top + height, left:left + width]


def exchange_channels(image: np.ndarray, grey: bool = False) -> None:
    """CAJ's channel exchange: all channels become one of them, drawn evenly, or (where asked for) their grey.

    image   (H, W, 3), is changed
    """
    channel = torch.randint(4 if grey else 3, (1,)).item()
    image[:] = grey_level(image) if channel == 3 else image[:, :, channel, None].copy()


def adapt_channels(image: np.ndarray) -> None:
    """CAJ's channel adaption with grey, for infrared images: each channel or the rest, a quarter each; half of the rest
    becomes grey, half stays as it is.

    image   (H, W, 3), is changed
    """
    channel = torch.randint(4, (1,)).item()
    if channel < 3:
        image[:] = image[:, :, channel, None].copy()
    elif chance(0.5):
        image[:] = grey_level(image)


def grey_level(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1), of values as they are: here of normalised ones, as in CAJ's code."""
    return image @ np.array([[0.2989], [0.5870], [0.1140]], dtype=image.dtype)
