"""Decode and resize the training images once, into DATA.CACHE; training then reads no images.

    python scripts/prepare.py --config configs/sysu_cmfn.yaml DATA.ROOT datasets/SYSU-MM01 DATA.CACHE cache
    python scripts/prepare.py --config configs/sysu_cmfn.yaml DATA.ROOT datasets/SYSU-MM01 DATA.CACHE cache --verify

Run again, it keeps what is valid. --verify also compares every image with its checksum and with its file. Training
makes a missing or outdated cache itself; this script does it ahead, on a machine without a GPU for instance.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

from assembly.recipe import body_shapes
from common.words import how_many
from configs.load import ConfigError, load_config
from data.cache import prepared
from data.dataset import open_data
from data.records import DataError
from data.transforms import read_size
from utils.arguments import count
from utils.lock import LockedError, only_one
from utils.output import OutputError, require_folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Around the making of a cache: the folder can be written, and no other process makes one there."""
    require_folder(folder, "choose another DATA.CACHE")
    with only_one(folder, "cache"):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a yaml file of configs/")
    parser.add_argument("--workers", type=count(1), default=os.cpu_count() or 1, help="processes that decode")
    parser.add_argument("--verify", action="store_true", help="compare the cache with the images, one by one")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the file's")
    args = parser.parse_intermixed_args()
    cfg = load_config(args.config, args.overrides)
    if not cfg.DATA.CACHE:
        raise ConfigError("DATA.CACHE names no folder: add, for instance, DATA.CACHE cache")
    if not Path(cfg.DATA.CACHE).is_dir():  # what is there may be valid, and is then only read
        require_folder(cfg.DATA.CACHE, "choose another DATA.CACHE")
    benchmark = open_data(cfg.DATA)
    begun = time.perf_counter()
    for images in [benchmark, *filter(None, [body_shapes(cfg, benchmark)])]:
        cache = prepared(
            cfg.DATA.CACHE, images, *read_size(cfg.DATA), args.workers, alone=alone, resize=cfg.DATA.RESIZE,
        )
        size = len(cache) * cache.height * cache.width * 3 / 1e9
        print(
            f"{cache.folder}: {how_many(len(cache), 'image')}, {size:.2f} GB, valid after "
            f"{time.perf_counter() - begun:.1f} s"
        )
        if args.verify:
            problems = cache.problems(args.workers)
            if problems:
                raise DataError(
                    f"{how_many(len(problems), 'image is not as it', 'images are not as they')} should be; "
                    f"the first: {problems[0]}"
                )
            print("every image is that of its file")
    print(f"next: {shlex.join(['python', 'train.py', '--config', args.config, *args.overrides])}")


if __name__ == "__main__":
    fail_clearly(main, (ConfigError, DataError, LockedError, OutputError))
