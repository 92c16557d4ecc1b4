"""Configurations and their views, as tests read and write them."""

from pathlib import Path

from data.transforms import read_step

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SMALL, LARGE, IMAGENET = [0.02, 0.4], [0.2, 0.8], [0.485, 0.456, 0.406]


def step_of(view, name):
    """All numbers of a view's step; None where it has none of that name."""
    return next((numbers for found, numbers in map(read_step, view) if found == name), None)


def names_of(view):
    return [read_step(step)[0] for step in view]


def erasing(view):
    """Probability, area and fill of the erasing; None without one."""
    numbers = step_of(view, "erase")
    return numbers and (numbers["p"], numbers["area"], numbers["fill"])


def one_pipeline(cfg):
    """That of both modalities, where they have the same, and no second view."""
    view, = cfg.DATA.VISIBLE
    assert cfg.DATA.INFRARED == [view]
    return view


def write(folder, **texts):
    for name, text in texts.items():
        place = folder / f"{name.replace('__', '/')}.yaml"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
