"""A sheet of people from a data set in SYSU-MM01's layout: a row per person and column block, day beside night.

    python scripts/contact_sheet.py --root datasets/synthetic --output docs/images/synthetic.jpg --identities 12
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

from PIL import Image, ImageDraw

from data.files import read_ids
from data.records import DataError
from utils.arguments import count
from utils.output import OutputError, require_files
from utils.reporting.sheets import SheetError, format_of, save

VISIBLE, INFRARED = (1, 2, 4, 5), (3, 6)
CAMERAS = VISIBLE + INFRARED
BLOCKS = 2                # people beside each other
GAP, MARGIN = 4, 22       # between images, and above them for the labels; in pixels


def contact_sheet(root: Path, people: list[int], height: int, width: int) -> Image.Image:
    """One image of each person and camera, each (height, width) pixels; blank where there is none."""
    block = len(CAMERAS) * (width + GAP) + 4 * GAP
    rows = -(-len(people) // BLOCKS)
    sheet = Image.new("RGB", (BLOCKS * block, MARGIN + rows * (height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, identity in enumerate(people):
        x, y = GAP + i % BLOCKS * block, MARGIN + i // BLOCKS * (height + GAP)
        for camera in CAMERAS:
            x += 2 * GAP * (camera == INFRARED[0])  # day and night stand apart
            if i < BLOCKS:
                label = f"{'IR' if camera in INFRARED else 'VIS'} {camera}"
                draw.text((x + width / 2, MARGIN / 2), label, fill="black", anchor="mm")
            images = sorted((root / f"cam{camera}" / f"{identity:04d}").glob("*.jpg"))
            if images:
                with Image.open(images[0]) as image:
                    sheet.paste(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (x, y))
            x += width + GAP
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with cam1 to cam6 and exp")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--identities", type=count(1), default=12, help="how many test identities to show")
    parser.add_argument("--height", type=count(2), default=144, help="of each image, in pixels; twice its width")
    args = parser.parse_args()
    index = args.root / "exp" / "test_id.txt"
    if not index.is_file():
        raise SheetError(f"there is no {index}; write the set with: python -m data.synthetic --root FOLDER")
    format_of(args.output)
    require_files(args.output, fix="choose another --output")
    people = read_ids(index)[: args.identities]
    save(contact_sheet(args.root, people, args.height, args.height // 2), args.output, quality=88)
    print(args.output)


if __name__ == "__main__":
    fail_clearly(main, (DataError, OutputError, SheetError))
