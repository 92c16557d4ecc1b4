"""An image for the steps of pipelines, and what a step or a pipeline makes of it."""

import numpy as np
import torch
from PIL import Image

from data.pixels import eval_transform
from data.transforms import EPOCHS, STEPS, Pipeline, read_step

UNERASED = ["pad", "grey", "crop", "flip", "normalise"]


def photograph(height=96, width=48) -> np.ndarray:
    """Blurred noise with all hues: smooth as a photograph, more colourful than most."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def ours(image: np.ndarray, pipeline: Pipeline, epoch: int = 0) -> torch.Tensor:
    """(3, H, W) from (H, W, 3); what the pipeline leaves out would stay nan."""
    out = torch.full(image.shape, torch.nan)
    pipeline(image, out.numpy(), epoch)
    return out.permute(2, 0, 1)


def after(step, image: np.ndarray) -> np.ndarray:
    """What a step makes of an image."""
    (_, change), = Pipeline([step]).steps
    return change(image, np.full(image.shape, np.nan, np.float32))


def normalised(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(eval_transform(image).permute(1, 2, 0).numpy())


def change(step: object, image: np.ndarray, seed: int = 0) -> np.ndarray:
    torch.manual_seed(seed)
    name, numbers = read_step(step)
    return STEPS[name].make(**{key: value for key, value in numbers.items() if key not in EPOCHS})(image, None)
