"""A sheet of all corruptions of an image: a row for each, a column for each severity.

    python scripts/corruption_sheet.py --output docs/images/corruptions.jpg              # of a drawn person
    python scripts/corruption_sheet.py --image day.jpg --height 288 --width 144 --output corruptions.png
"""

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
from PIL import Image

from data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from data.pixels import open_image
from data.records import DataError
from data.synthetic import draw_jpeg
from utils.arguments import count
from utils.output import OutputError, require_files
from utils.reporting.sheets import Cell, SheetError, format_of, save, sheet

PERSON, CAMERA, NUMBER = 5, 1, 1  # of the embedded data set's seed 0


def corruption_sheet(image: np.ndarray, seed: int, height: int, width: int) -> Image.Image:
    """
    image           (H, W, 3) uint8
    height, width   of each image of the sheet, in pixels
    """
    names = [*CORRUPTIONS]
    half = (len(names) + 1) // 2  # two blocks beside each other, so that the sheet is no ribbon
    rows = []
    for pair in zip(names[:half], names[half:]):
        cells = []
        for name in pair:
            cells.append(Cell(Image.fromarray(image), name.replace("_", "\n")))
            found = (corrupt(image, name, severity, np.random.default_rng(seed)) for severity in SEVERITIES)
            cells += [Cell(Image.fromarray(x), str(severity)) for x, severity in zip(found, SEVERITIES)]
        rows.append(("", cells))
    return sheet(rows, height=height, width=width, apart={1, 6, 7})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--image", type=Path, help="a file; default: a drawn person of the embedded data set")
    parser.add_argument("--height", type=count(2), default=128, help="to which it is resized before it is corrupted")
    parser.add_argument("--width", type=count(2), default=64)
    parser.add_argument("--seed", type=count(0), default=0, help="of what corruptions draw (default: 0)")
    args = parser.parse_args()
    format_of(args.output)
    require_files(args.output, fix="choose another --output")
    if args.image:
        image = open_image(str(args.image), args.height, args.width)
    else:
        image = np.asarray(Image.open(io.BytesIO(draw_jpeg(0, PERSON, CAMERA, NUMBER, args.height, args.width))))
    save(corruption_sheet(image, args.seed, args.height, args.width), args.output, quality=62)
    print(args.output)


if __name__ == "__main__":
    fail_clearly(main, (DataError, OutputError, SheetError))
