"""What corrupting test images costs, beside reading them; and beside the package imagecorruptions, if it is installed.

    python scripts/benchmark_corruptions.py
    python scripts/benchmark_corruptions.py --images 301 --size 384 192 --file-size 400 160 --workers 2

Images are drawn people in JPEG files. The table has the time of each corruption (mean over the five severities) as a
multiple of reading an image; then come passes over all images through a loader's processes, each with drawn
corruptions as scripts/corruptions.py makes them. Times are of the processor, not of the clock, where one is alone.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch

from assembly.errors import EXPECTED_ERRORS
from common.words import how_many
from data.corrupted import ORDERS, CorruptedReader
from data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from data.dataset import eval_loaders
from data.pixels import open_image
from data.records import Record
from data.synthetic import draw_jpeg
from utils.arguments import count
from utils.measure import device_name
from utils.training.loaders import start_worker


def library() -> Callable | None:
    """`corrupted` by imagecorruptions or imagecorruptions-imaug, which seeds itself."""
    try:
        from imagecorruptions import corrupt as theirs
    except ImportError:
        return None
    return lambda image, name, severity, seed: theirs(image, severity, name)


def corrupted(image: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    return corrupt(image, name, severity, np.random.default_rng(seed))


def milliseconds(function: Callable, rounds: int) -> float:
    """Of the processor, mean; the first call isn't counted."""
    function(0)
    start = time.process_time()
    for number in range(rounds):
        function(number)
    return 1e3 * (time.process_time() - start) / rounds


def pass_over(records: list[Record], read: Callable, size: tuple[int, int], workers: int) -> float:
    """Seconds of the clock, the start of the processes included."""
    loader, _ = eval_loaders(records, *size, 64, workers, False, worker_init_fn=start_worker, read=read)[0]
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=count(1), default=301, help="of a pass (default: 301, a gallery of SYSU-MM01)")
    parser.add_argument("--size", type=count(2), nargs=2, default=(288, 144), help="height and width of the network's")
    parser.add_argument("--file-size", type=count(16), nargs=2, default=(288, 144), help="those of the files")
    parser.add_argument("--workers", type=count(0), default=2, help="processes of the loader")
    parser.add_argument("--rounds", type=count(1), default=10, help="of each corruption and severity")
    args = parser.parse_args()
    torch.set_num_threads(1)
    theirs = library()
    with tempfile.TemporaryDirectory() as folder:
        records = []
        for number in range(args.images):
            path = Path(folder, f"{number}.jpg")
            path.write_bytes(draw_jpeg(0, 1 + number % 20, 1, number, *args.file_size))
            records.append(Record(str(path), number, 1, False))
        reading = milliseconds(lambda i: open_image(records[i % len(records)].path, *args.size), 5 * args.rounds)
        print(f"{device_name(torch.device('cpu'))}; {args.size[0]}x{args.size[1]} of {args.file_size[0]}x"
              f"{args.file_size[1]}; reading an image: {reading:.1f} ms")
        image, total = open_image(records[0].path, *args.size), 0.0
        for name in CORRUPTIONS:
            ours = np.mean([milliseconds(partial(corrupted, image, name, s), args.rounds) for s in SEVERITIES])
            total += ours
            line = f"{name:18}{ours:7.1f} ms{ours / reading:7.1f} x reading"
            if theirs and name != "rain":
                other = np.mean([milliseconds(partial(theirs, image, name, s), args.rounds) for s in SEVERITIES])
                line += f"   the package takes {other / ours:.1f} x as long"
            print(line, flush=True)
        print(f"{'mean':18}{total / len(CORRUPTIONS):7.1f} ms{total / len(CORRUPTIONS) / reading:7.1f} x reading")
        plain = pass_over(records, open_image, args.size, args.workers)
        print(
            f"{how_many(args.images, 'image')}, {how_many(args.workers, 'process', 'processes')}, clean: {plain:.1f} s"
        )
        for order in ORDERS:
            seconds = pass_over(records, CorruptedReader(folder, order, 0), args.size, args.workers)
            print(f"the same, corrupted, {order}: {seconds:.1f} s, {seconds / plain:.1f} x as long")


if __name__ == "__main__":
    fail_clearly(main, EXPECTED_ERRORS)
