"""When is a gain in a table noise? The smallest difference that a protocol's ten trials can show, by simulation.

    python scripts/smallest_difference.py                               # at the sizes of SYSU-MM01, RegDB and LLCM
    python scripts/smallest_difference.py --sets regdb --levels 0.9 --worlds 30 --device cuda

Draws worlds: new people, images and galleries of a data set's size, and two networks that are equally good at them.
Whatever difference these show is noise. An image's embedding is its person's, plus what its person and camera share,
plus what is its own; a share of the last two (--own) is different in each network, the rest is the same for both. How
far people lie apart is set so that Rank-1 is as asked for (--levels). Prints, in points of percent:
  ±            standard deviation over the ten trials, as tables print it
  noise        a difference of two equal networks is below it in 95 of 100 worlds
  seen         a true difference of this size is told from noise in 80 of 100 worlds
  false: t     worlds in which Student's paired t test over the ten trials calls the two different (should be 5 %)
  false: people   likewise where people are what is drawn again (scripts/compare_results.py); no such draw on RegDB
  agreement    correlation of the two networks' hits at rank 1, over queries
Another training seed, as a whole better or worse, comes on top (docs/protocols.md).
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from assembly.experiment import markdown_table
from utils.arguments import count
from utils.evaluation.metrics import inner_products, sort_rows
from utils.training.run import DeviceError, select_device

NUMBERS = 32        # of an embedding
TRIALS = 10
METRICS = ("Rank-1", "mAP")
FOLDER = 10         # images from which a gallery's one is drawn


class SimulationError(ValueError):
    """What cannot be simulated; the message says why."""


@dataclass(frozen=True)
class Size:
    """A protocol's size: each of `people` has `queries` images that ask, and a gallery image by each of `cameras`.

    hidden   the share of queries that ignore the first camera, as those of SYSU-MM01's camera 3 do camera 2
    pool     people of whom each trial, with networks of its own, has `people`; 0: all trials have the same ones
    """

    people: int
    queries: int
    cameras: int
    hidden: float = 0.0
    pool: int = 0


SIZES = {
    "sysu/all": Size(people=96, queries=40, cameras=3, hidden=0.5),      # 3,803 queries, 301 gallery images
    "sysu/indoor": Size(people=56, queries=39, cameras=2, hidden=0.5),   # 2,208 and 112
    "regdb": Size(people=206, queries=10, cameras=10, pool=412),         # ten images by the only camera
    "llcm": Size(people=351, queries=20, cameras=4),                     # its people; the rest in round numbers
}


def world(size: Size, apart: float, own: float, generator: torch.Generator) -> Tensor:
    """Figures of two equally good networks.

    apart     standard deviation of people's embeddings
    own       the share of what varies beside that is different in each network
    returns   (2, TRIALS, people, queries, METRICS), 0 to 1
    """
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, NUMBERS, generator=generator, device=generator.device)

    def varied(*shape: int, networks: int) -> Tensor:
        """(networks, *shape, NUMBERS) of variance 1/2: shared by the networks but for `own`."""
        return (normal(*shape) * ((1 - own) / 2) ** 0.5) + normal(networks, *shape) * (own / 2) ** 0.5

    number, networks = size.pool or size.people, 2 * (TRIALS if size.pool else 1)
    person = apart * normal(number)
    folders = 1 if size.pool else size.cameras           # RegDB's images of a person are by one camera
    asked = person[:, None] + varied(number, 1, networks=networks) + varied(number, size.queries, networks=networks)
    images = varied(number, size.cameras, 1 if size.pool else FOLDER, networks=networks)
    shown = person[:, None, None] + varied(number, folders, 1, networks=networks) + images
    asked, shown = F.normalize(asked, dim=-1), F.normalize(shown, dim=-1)

    figures = []
    hidden = torch.arange(size.queries, device=asked.device) < round(size.hidden * size.queries)
    for trial in range(TRIALS):
        people = torch.randperm(number, generator=generator, device=asked.device)[:size.people].sort().values
        pick = torch.randint(shown.shape[3], (size.people, size.cameras), generator=generator, device=asked.device)
        of_trial = (2 * trial, 2 * trial + 1) if size.pool else (0, 1)
        figures.append(torch.stack([
            ranked(asked[net, people], shown[net, people].gather(
                2, pick[..., None, None].expand(-1, -1, 1, NUMBERS)).squeeze(2), hidden)
            for net in of_trial
        ]))
    return torch.stack(figures, dim=1)


def ranked(asked: Tensor, shown: Tensor, hidden: Tensor) -> Tensor:
    """Rank-1 and average precision of each query, by the ranking of all gallery images.

    asked     (P, Q, E) queries by person
    shown     (P, C, E) gallery images by person and camera
    hidden    (Q,) queries that ignore the first camera
    returns   (P, Q, 2)
    """
    people, cameras = shown.shape[:2]
    similarity = inner_products(asked.flatten(0, 1), shown.flatten(0, 1)).view(*asked.shape[:2], people, cameras)
    similarity[:, hidden, :, 0] = -torch.inf
    own = similarity.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()       # (P, Q, C)
    kept = own > -torch.inf
    every = sort_rows(similarity.flatten(0, 1).flatten(1)).view(*asked.shape[:2], -1)
    place = every.shape[2] - torch.searchsorted(every, own)                      # images that are as near, itself too
    precision = (own[..., None, :] >= own[..., None]).sum(dim=3) / place
    hit = place.masked_fill(~kept, every.shape[2]).amin(dim=2) == 1
    return torch.stack([hit.float(), (precision * kept).sum(dim=2) / kept.sum(dim=2)], dim=2)


def distance_for(size: Size, level: float, own: float, generator: torch.Generator) -> float:
    """How far apart people lie where Rank-1 is `level`, by halving."""
    low, high = 0.05, 3.0
    small = replace(size, queries=min(size.queries, 8))
    for _ in range(9):
        middle = (low + high) / 2
        reached = torch.stack([world(small, middle, own, generator)[..., 0].mean() for _ in range(2)]).mean()
        low, high = (middle, high) if reached < level else (low, middle)
    return (low + high) / 2


def summary(worlds: list[Tensor], size: Size) -> list[dict[str, float]]:
    """Of each metric, what the table prints.

    worlds   of `world`
    """
    found = []
    for metric, name in enumerate(METRICS):
        figures = [figures[..., metric].double().cpu() for figures in worlds]
        by_trial = torch.stack([f.mean(dim=(2, 3)) for f in figures])              # (W, 2, T)
        differences = by_trial[:, 1] - by_trial[:, 0]                              # (W, T)
        of_worlds = differences.mean(dim=1)
        deviation = of_worlds.square().mean().sqrt().item()                        # its mean is 0
        error = differences.std(dim=1) / TRIALS ** 0.5
        t = (of_worlds.abs() > stats.t.ppf(0.975, TRIALS - 1) * error).double().mean().item()
        by_person = torch.stack([(f[1] - f[0]).mean(dim=(0, 2)) for f in figures])  # (W, P)
        people = (of_worlds.abs() > 1.96 * by_person.std(dim=1) / by_person.shape[1] ** 0.5).double().mean().item()
        found.append({
            "metric": name, "level": by_trial.mean().item(),
            "galleries": by_trial.std(dim=2, correction=0).mean().item(),
            "noise": 1.96 * deviation, "seen": 2.80 * deviation, "t": t, "people": None if size.pool else people,
            "agreement": torch.stack([torch.corrcoef(f.flatten(1))[0, 1] for f in figures]).mean().item(),
        })
    return found


def levels(text: str) -> list[float]:
    """
    raises   argparse.ArgumentTypeError
    """
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0.05 <= level <= 0.99 for level in found):
        raise argparse.ArgumentTypeError(f"{text} is no list of fractions from 0.05 to 0.99, such as 0.5,0.9")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SIZES, default=[*SIZES], help="default: all")
    parser.add_argument("--levels", type=levels, default=[0.5, 0.85], help="of Rank-1; default: 0.5,0.85")
    parser.add_argument("--own", type=float, default=0.25, help="share of what varies that is a network's own")
    parser.add_argument("--worlds", type=count(2), default=100, help="that are drawn, 2 at least")
    parser.add_argument("--seed", type=count(0), default=0)
    parser.add_argument("--device", default="auto", help="cuda, cpu, or auto, the default")
    args = parser.parse_args()
    if not 0 <= args.own <= 1:
        raise SimulationError(f"--own is {args.own}; it is a share, from 0 to 1")
    device = select_device(args.device)
    lines = []
    for name in args.sets:
        size = SIZES[name]
        for level in args.levels:
            generator = torch.Generator(device).manual_seed(args.seed)
            apart = distance_for(size, level, args.own, generator)
            worlds = [world(size, apart, args.own, generator) for _ in range(args.worlds)]
            for row in summary(worlds, size):
                points = [f"{100 * row[key]:.1f}" for key in ("level", "galleries", "noise", "seen")]
                false = ["-" if row[key] is None else f"{100 * row[key]:.0f} %" for key in ("t", "people")]
                lines.append([name, row["metric"], *points, *false, f"{row['agreement']:.2f}"])
                print(*lines[-1], sep="  ", flush=True)
    header = ["size of", "metric", "level", "±", "noise", "seen", "false: t", "false: people", "agreement"]
    print(f"\n{args.worlds} worlds each, own share {args.own}, seed {args.seed}")
    print(markdown_table(header, lines), end="")


if __name__ == "__main__":
    fail_clearly(main, (DeviceError, SimulationError))
