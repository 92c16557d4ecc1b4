"""From a picture on disk to the network's input: the training and the test pipeline side by side.

docs/method.md section 8. Pictures are resized by Pillow (Lanczos) before; from there on everything is a uint8 tensor
until the last steps. Only the jitter goes through Pillow, whose hue takes half of torchvision's time for tensors.
"""

import torch
from PIL import Image, ImageFile
from torch import Tensor
from torchvision.transforms import v2

from data.records import DataError

ImageFile.LOAD_TRUNCATED_IMAGES = False
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def open_image(path: str, height: int, width: int) -> Tensor:
    """(3, height, width) uint8: the picture in RGB, resized without keeping its aspect ratio.

    raises   DataError naming a file that is missing, truncated or no picture
    """
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise DataError(f"there is no image {path}, although the data set lists it; is the copy complete?") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        raise DataError(f"{path} is broken or no image ({error}); replace it from the original data set") from None
    return v2.functional.pil_to_tensor(resized)


class RandomErasing(torch.nn.Module):
    """Fills a rectangle with a constant per channel, with probability 1/2.

    Its part of the area and its aspect ratio (0.3 to 1/0.3) are drawn uniformly, until it fits into the image. (That
    of torchvision draws the ratio from another distribution and gives up after ten tries.)

    image     (3, H, W) float, normalised
    area      smallest and largest part of the image's area
    raises    DataError where nothing fits in a thousand tries
    """

    def __init__(self, area: tuple[float, float], fill: tuple[float, float, float] = MEAN, probability: float = 0.5):
        super().__init__()
        self.low, self.high = area
        self.probability = probability
        self.fill = torch.tensor(fill).view(3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        if torch.rand(()).item() >= self.probability:
            return image
        rows, columns = image.shape[-2:]
        for _ in range(1000):  # six in ten tries fit at the paper's sizes
            area, ratio = torch.rand(2).tolist()
            area = (self.low + area * (self.high - self.low)) * rows * columns
            ratio = 0.3 + ratio * (1 / 0.3 - 0.3)  # height over width
            height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < height < rows and 0 < width < columns:
                break
        else:
            area = [self.low, self.high]
            raise DataError(f"DATA.ERASING_AREA is {area}, and no such part fits into {rows}x{columns} pixels")
        top = torch.randint(rows - height + 1, ()).item()
        left = torch.randint(columns - width + 1, ()).item()
        image = image.clone()
        image[:, top:top + height, left:left + width] = self.fill
        return image


def to_network() -> list[torch.nn.Module]:
    """What training and test share: uint8 to [0, 1], then ImageNet's normalisation."""
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def train_transform(height: int, width: int, jitter: bool, erasing_area: tuple[float, float]) -> v2.Compose:
    """(3, height, width) uint8 -> the same size, float32. One pipeline for both modalities."""
    if not 0 < erasing_area[0] <= erasing_area[1] < 1:
        raise DataError(f"DATA.ERASING_AREA is {list(erasing_area)}; it needs 0 < smallest <= largest < 1")
    return v2.Compose([
        *([v2.ToPILImage(), v2.ColorJitter(0.5, 0.5, 0.5, 0.5), v2.PILToTensor()] if jitter else []),
        v2.Pad(10),
        v2.RandomGrayscale(0.5),
        v2.RandomCrop((height, width)),
        v2.RandomHorizontalFlip(0.5),
        *to_network(),
        RandomErasing(erasing_area),
    ])


def eval_transform() -> v2.Compose:
    """(3, H, W) uint8 -> float32; the mirrored image is the network's business."""
    return v2.Compose(to_network())
