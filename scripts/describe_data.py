"""What is in a data set's folder: people, cameras, modalities, sizes, copies, broken images, files that are not read.

    python scripts/describe_data.py DATA.NAME folder DATA.ROOT people
    python scripts/describe_data.py --config configs/sysu_cmfn.yaml DATA.ROOT datasets/SYSU-MM01 --output described
    python scripts/describe_data.py DATA.NAME folder DATA.ROOT people --list people/images.csv    # docs/own_data.md

Prints it, and writes data.json and, of some people, data.jpg. Every image is read once. Copies are images of the same
bytes. With --list, a folder of one's own gets a list of its images, in which a drawn split is written down for good.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

from PIL import Image

from common.words import how_many
from configs.load import ConfigError, load_config
from data.dataset import is_own, open_data
from data.described import described, findings, part_of, table
from data.folder import Folder
from data.pixels import read_image
from data.records import Benchmark, DataError, Record
from utils.arguments import count
from utils.output import OutputError, require_files, write_or_keep
from utils.reporting.sheets import Cell, SheetError, save, sheet

HEIGHT, WIDTH, EACH = 128, 64, 4  # of an image on the sheet, in pixels; images of a person and modality
SIZES = 5                         # that are printed


def contact_sheet(benchmark: Benchmark, people: int, broken: set[str]) -> Image.Image | None:
    """Some people, spread evenly over each part: their first images by day and by night. None where none can be read.

    broken   relative paths of images that are left out
    """
    root, rows = f"{benchmark.root.as_posix()}/", []
    names = {number: name for name, number in getattr(benchmark, "people", {}).items()}
    for part in ("train", "test"):
        shown: dict[int, list[Record]] = {}
        for record in benchmark.records(part):
            if record.path.removeprefix(root) not in broken:
                shown.setdefault(record.identity, []).append(record)
        identities = sorted(shown)
        for identity in identities[::max(1, -(-len(identities) // people))]:
            cells: list[Cell | None] = []
            for infrared in (False, True):
                images = [record for record in shown[identity] if record.infrared == infrared][:EACH]
                cells += [Cell(read_image(record.path), f"camera {record.camera}") for record in images]
                cells += [None] * (EACH - len(images))
            rows.append((f"{part_of(benchmark, part, shown[identity][0])}\n{names.get(identity, identity)}", cells))
    columns = ["visible", *[""] * (EACH - 1), "infrared"]
    return sheet(rows, columns, f"{benchmark.name}", HEIGHT, WIDTH, apart={EACH}) if rows else None


def as_list(benchmark: Folder) -> str:
    """A CSV file of the images of a folder of one's own (docs/own_data.md)."""
    names = {number: name for name, number in benchmark.people.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "identity", "modality", "camera", "split"])
    for part in ("train", "test"):
        for record in benchmark.records(part):
            path = os.path.relpath(record.path, benchmark.root).replace(os.sep, "/")
            split = part_of(benchmark, part, record).replace("validation", "val")
            modality = "infrared" if record.infrared else "visible"
            writer.writerow([path, names[record.identity], modality, record.camera, split])
    return text.getvalue()


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a yaml file of configs/, instead of DATA.NAME and DATA.ROOT")
    parser.add_argument("--output", type=Path, help="folder of data.json and data.jpg; default: runs/data/NAME")
    parser.add_argument("--people", type=count(1), default=8, help="of each part, on the sheet (default: 8)")
    parser.add_argument("--list", type=Path, metavar="FILE", help="write the images of your folder as a CSV file, too")
    parser.add_argument("--workers", type=count(1), default=os.cpu_count() or 1, help="processes that read images")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options, over the file's if there is one")
    args = parser.parse_intermixed_args()
    if not args.config and not {"DATA.NAME", "DATA.ROOT"} <= {*args.overrides[::2]}:
        parser.error("say which data set: DATA.NAME NAME DATA.ROOT FOLDER, or --config FILE")
    cfg = load_config(args.config, args.overrides)
    if args.list and not is_own(cfg.DATA.NAME):
        raise ConfigError(f"--list is of a folder of one's own, and DATA.NAME is {cfg.DATA.NAME}: leave it out")
    if args.list and args.list.exists():
        raise OutputError(f"--list is {args.list}, which is there already: name another file, or remove it first")
    output = args.output or Path("runs", "data", cfg.DATA.NAME)
    places = output / "data.json", output / "data.jpg"
    require_files(*places, *filter(None, [args.list]), fix="choose another --output, or --list")
    benchmark = open_data(cfg.DATA, strict=False)

    found = described(benchmark, args.workers)
    said = findings(found)
    print(f"{benchmark.summary()}\n\n{aligned(table(found))}\n")
    sizes = [f"{size} ({number})" for size, number in [*found["sizes"].items()][:SIZES]]
    print(f"{how_many(len(found['sizes']), 'size')} of images, width x height: {', '.join(sizes)}")
    print(f"other files: {found['other_files'] or 'none'}")
    print("\n".join(f"warning: {sentence}" for sentence in said) or "nothing is wrong with it")
    picture = contact_sheet(benchmark, args.people, {*found["broken"]})
    contents = {places[0]: json.dumps(found | {"findings": said}, indent=1) + "\n"}
    write_or_keep(contents | ({args.list: as_list(cast(Folder, benchmark))} if args.list else {}))
    if picture:
        save(picture, places[1])
    print("\n".join(f"written: {path}" for path in [*places[:1 + bool(picture)], *filter(None, [args.list])]))


if __name__ == "__main__":
    fail_clearly(main, (ConfigError, DataError, OutputError, SheetError))
