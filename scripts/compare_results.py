"""Is B better than A? Paired bootstrap between results files of test.py, for each protocol that all of them hold.

    python scripts/compare_results.py runs/a/results.json runs/b/results.json
    python scripts/compare_results.py A.json B.json --protocol sysu/all/single-shot/random --unit trials
    python scripts/compare_results.py runs/a/seed*/results.json --against runs/b/seed*/results.json

Prints A, B, B - A with its 95 % confidence interval and the two-sided p-value of each metric (docs/tables.md).
What is drawn again (--unit): by default the finest that both files allow,
  identities   all queries of a person together, in all trials; needs queries, and the identity of each test image
  queries      each query by itself, in all trials; needs queries
  trials       galleries, with the trial's figures
Of several runs, which differ in their seed, runs are drawn again too: as many of A as there are, and as many of B, each
by themselves; and the units, the same ones for every run. A's figure is the mean over the drawn runs.
Results of different data, protocols, flip, weighting or re-ranking are not compared.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np

from common.words import how_many
from utils.arguments import count
from utils.reporting.results import METRICS, SETTING, ResultsError, read_results, setting

UNITS = ("identities", "queries", "trials")
NAMES = ("Rank-1", "Rank-5", "Rank-10", "Rank-20", "mAP", "mINP")  # as METRICS
BLOCK = 500  # resamples drawn at once
NO_RECIPE = (  # options that differ between seeds, or change no figure
    "SEED", "DEVICE", "OUTPUT", "DATA.ROOT", "DATA.CACHE", "DATA.WORKERS", "MODEL.RECOMPUTE", "SOLVER.LOG_PERIOD",
    "TEST.BATCH", "TEST.PROTOCOLS", "TEST.WEIGHTINGS",
)


def paired_bootstrap(
    sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Differences when units are drawn again with replacement, the same ones for A and B.

    sums      (U, T, M)  difference B - A of metric m in trial t, summed over the queries of unit u
    counts    (U, T)     number of these queries
    returns   difference, lower and upper end of its 95 % interval (percentiles), two-sided p-value, each (M,)
    """
    return bootstrap(np.zeros_like(sums)[None], sums[None], counts, resamples, seed)


def bootstrap(
    a: np.ndarray, b: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Differences B - A when runs and units are drawn again with replacement: the runs of A and those of B each by
    themselves, the units, which all runs share, once for all.

    a, b      (SA, U, T, M) and (SB, U, T, M)  metric m in trial t of each run, summed over the queries of unit u
    counts    (U, T)                           number of these queries
    returns   as `paired_bootstrap`
    """
    every = np.concatenate([a, b])
    units = len(counts)
    generator, runs_generator = np.random.default_rng(seed), np.random.default_rng((seed, 1))

    def of_runs(weight: np.ndarray) -> np.ndarray:  # (R, U) -> (R, SA + SB, M), means over trials
        total = np.stack([
            (weight @ sums.reshape(units, -1)).reshape(len(weight), *sums.shape[1:]) for sums in every
        ], axis=1)                                                                       # (R, S, T, M)
        number = (weight @ counts)[:, None, :, None]                                     # (R, 1, T, 1)
        with np.errstate(invalid="ignore"):
            return np.nanmean(total / number, axis=2)  # a trial without any drawn query says nothing

    def difference(weight: np.ndarray, drawn_a: np.ndarray, drawn_b: np.ndarray) -> np.ndarray:  # (R, M)
        share = np.concatenate([-drawn_a / len(a), drawn_b / len(b)], axis=1)            # (R, SA + SB)
        return np.einsum("rs,rsm->rm", share, of_runs(weight)).round(12)  # so that what cancels is 0

    def drawn(of: np.random.Generator, number: int, times: int) -> np.ndarray:
        """(times, number): how often each of `number` things is drawn."""
        return of.multinomial(number, np.full(number, 1 / number), size=times) * 1.0

    blocks = []
    for i in range(0, resamples, BLOCK):
        times = min(BLOCK, resamples - i)
        blocks.append(difference(
            drawn(generator, units, times), drawn(runs_generator, len(a), times), drawn(runs_generator, len(b), times)
        ))
    found = np.concatenate(blocks)
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    # How far the interval must be widened to reach zero; one is added because p = 0 cannot be seen in finite draws.
    beyond = np.minimum((found <= 0).sum(axis=0), (found >= 0).sum(axis=0))
    all_of_them = difference(np.ones((1, units)), np.ones((1, len(a))), np.ones((1, len(b))))[0]
    return all_of_them, low, high, np.minimum(1, 2 * (beyond + 1) / (resamples + 1))


def units_by_query(results: list[dict], identities: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """(runs, U, T, M) and (U, T), as `bootstrap` takes them; a unit is an identity, or without them a query."""
    first = results[0]["trials"]
    rows = np.unique(np.concatenate([trial["queries"]["rows"] for trial in first]))
    owner = rows if identities is None else np.asarray(identities)[rows]
    units, unit_of_row = np.unique(owner, return_inverse=True)
    sums = np.zeros((len(results), len(units), len(first), len(METRICS)))
    counts = np.zeros(sums.shape[1:3])
    for t, trial in enumerate(first):
        unit = unit_of_row[np.searchsorted(rows, trial["queries"]["rows"])]
        np.add.at(counts[:, t], unit, 1)
        for run, result in enumerate(results):
            np.add.at(sums[run, :, t], unit, figures_by_query(result["trials"][t]))
    return sums, counts


def figures_by_query(trial: dict) -> np.ndarray:
    """(Q, M), in the order of METRICS; their mean is the trial's figures."""
    rank = np.asarray(trial["queries"]["rank"])
    ranks = [rank <= k for k in (1, 5, 10, 20)]
    return np.stack([*ranks, trial["queries"]["ap"], trial["queries"]["inp"]], axis=1).astype(float)


def figures_by_trial(result: dict) -> np.ndarray:
    """(T, M)"""
    return np.array([[trial[metric] for metric in METRICS] for trial in result["trials"]])


def check_alike(a: list[dict], b: list[dict]) -> None:
    """All results must be of the same trials and queries, and their figures those of their queries."""
    first, every = a[0], [*a, *b]
    for other in every[1:]:
        for what, found in (
            ("trials", [len(result["trials"]) for result in (first, other)]),
            ("valid queries in each trial",
             [[trial["valid_queries"] for trial in result["trials"]] for result in (first, other)]),
        ):
            if found[0] != found[1]:
                raise ResultsError(
                    f"{first['protocol']}: A and B have different numbers of {what}: {found[0]} and {found[1]}"
                )
    for name, result in [*(("A", one) for one in a), *(("B", one) for one in b)]:
        for number, trial in enumerate(result["trials"] if by_query(result) else []):
            columns = [trial["queries"].get(key, []) for key in ("rows", "rank", "ap", "inp")]
            fits = {len(column) for column in columns} == {trial["valid_queries"]}
            reported = [trial[metric] for metric in METRICS]
            if not fits or not np.allclose(figures_by_query(trial).mean(axis=0), reported, rtol=0, atol=1e-6):
                raise ResultsError(f"{name}: the figures of {result['protocol']}, trial {number} are not its queries'")
    if all(map(by_query, every)):
        for other in every[1:]:
            for number, (trial, same) in enumerate(zip(first["trials"], other["trials"])):
                if trial["queries"]["rows"] != same["queries"]["rows"]:
                    raise ResultsError(f"{first['protocol']}, trial {number}: A and B have different queries")


def by_query(result: dict) -> bool:
    return all("queries" in trial for trial in result["trials"])


def choose_unit(results: list[dict], identities: list[int] | None, wanted: str | None) -> str:
    """The finest unit there is, or the one wanted."""
    queries = all(map(by_query, results))
    there = (queries and identities is not None, queries, len(results[0]["trials"]) > 1)
    possible = [unit for unit, is_there in zip(UNITS, there) if is_there]
    if wanted in possible or (wanted is None and possible):
        return wanted or possible[0]
    missing = f"the {wanted} of both" if wanted in UNITS[:2] else "a second trial, or each file's queries"
    protocol = results[0]["protocol"]
    raise ResultsError(f"{protocol} lacks {missing}; test.py --per-query writes queries and their identities")


def check_seeds(name: str, paths: list[Path], runs: list[dict]) -> None:
    """
    raises   ResultsError where the runs of a method aren't of different networks, or differ in more than their seed
    """
    seen: dict[str, Path] = {}
    for path, run in zip(paths, runs):
        checkpoint = run.get("checkpoint", path.resolve())
        made_of = str([one.get("sha256", one) for one in checkpoint] if isinstance(checkpoint, list) else
                      checkpoint.get("sha256", checkpoint) if isinstance(checkpoint, dict) else checkpoint)
        if made_of in seen:
            raise ResultsError(f"{name}: {seen[made_of]} and {path} are of one network; runs differ in their seed")
        seen[made_of] = path
        here, there = recipe(run), recipe(runs[0])
        changed = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
        if changed and here and there:
            raise ResultsError(
                f"{name}: {paths[0]} and {path} differ in {', '.join(changed)}; runs of one method differ in SEED alone"
            )


def recipe(run: dict) -> dict[str, object]:
    """The options of a results file that change a method's figures, by key."""
    def flat(options: dict, prefix: str = "") -> dict:
        pairs: dict[str, object] = {}
        for key, value in options.items():
            pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        return pairs

    return {key: value for key, value in flat(run.get("config", {})).items() if not key.startswith(NO_RECIPE)}


def pairs(a: list[dict], b: list[dict], protocol: str | None) -> list[tuple[list[dict], list[dict]]]:
    """The results that all files hold, those in some alone being named; an error says why there is none."""
    names = ["A"] * len(a) + ["B"] * len(b)
    first, every = a[0], [*a, *b]
    for other in every[1:]:
        if first["data"]["name"] != other["data"]["name"]:
            measured = (x["data"]["name"] for x in (first, other))
            raise ResultsError("A was measured on {}, B on {}: they cannot be compared".format(*measured))
        if first["data"]["fingerprint"] != other["data"]["fingerprint"]:
            prints = " and ".join(x["data"]["fingerprint"][:12] for x in (first, other))
            data = first["data"]["name"]
            raise ResultsError(f"A and B were measured on different copies of {data} (fingerprints {prints})")
    held = [{setting(result): result for result in x["results"]} for x in every]
    if protocol:
        for name, found in zip(names, held):
            known = sorted({key[0] for key in found})
            if protocol not in known:
                raise ResultsError(f"{name} has no protocol {protocol}; it has {', '.join(known)}")
        held = [{key: found[key] for key in found if key[0] == protocol} for found in held]
    common = [key for key in held[0] if all(key in found for found in held)]
    if not common:
        far = next((found for found in held[1:] if not {*found} & {*held[0]}), held[-1])
        nearest = min(((x, y) for x in held[0] for y in far), key=lambda pair: sum(p != q for p, q in zip(*pair)))
        why = ", ".join(f"{n} ({word(p)} and {word(q)})" for n, p, q in zip(SETTING, *nearest) if p != q)
        raise ResultsError(f"A and B have no result in common; the nearest differ in {why}")
    for key in dict.fromkeys(key for found in held for key in found):
        if key not in common:
            having = [name for name, found in zip(names, held) if key in found]
            which = " and ".join(f"{having.count(n)} of {names.count(n)} of {n}" for n in dict.fromkeys(having))
            alone = f"{having[0]} alone has it" if len(every) == 2 else f"{which} have it"
            print(f"left out, {alone}: {describe(key)}")
    return [([found[key] for found in held[:len(a)]], [found[key] for found in held[len(a):]]) for key in common]


def describe(key: tuple) -> str:
    return ", ".join([key[0], *(f"{name} {word(value)}" for name, value in zip(SETTING[1:], key[1:]))])


def word(value: str | bool) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


def compare(
    a: list[dict], b: list[dict], identities: list[int] | None, unit: str | None, resamples: int, seed: int
) -> str:
    """The text for one protocol, of which A and B are each run's result."""
    check_alike(a, b)
    unit = choose_unit([*a, *b], identities, unit)
    if unit == "trials":
        sums = np.stack([figures_by_trial(result) for result in (*a, *b)])[:, :, None]
        counts = np.ones(sums.shape[1:3])
    else:
        sums, counts = units_by_query([*a, *b], identities if unit == "identities" else None)
    if len(counts) < 2:
        raise ResultsError(f"{a[0]['protocol']} has {len(counts)} of {unit}; nothing can be drawn again")
    figures = zip(
        NAMES, *(np.mean([figures_by_trial(result).mean(axis=0) for result in side], axis=0) for side in (a, b)),
        *bootstrap(sums[:len(a)], sums[len(a):], counts, resamples, seed),
    )
    several = len(a) + len(b) > 2
    runs = f"{how_many(len(a), 'run')} of A, {len(b)} of B, and for all of them the same " if several else ""
    lines = [
        describe(setting(a[0])),
        f"drawn again: {runs}{len(counts)} {unit}, {resamples} times, seed {seed}; trials: {len(a[0]['trials'])}",
        f"{'':8}{'A':>8}{'B':>8}{'B - A':>9}  {'95 % interval':>20}  {'p':>7}",
    ]
    for name, mean_a, mean_b, difference, low, high, p in figures:
        interval = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
        lines.append(
            f"{name:8}{100 * mean_a:8.2f}{100 * mean_b:8.2f}{100 * difference:+9.2f}  {interval:>20}  {p:7.4f}"
        )
    if unit == "trials":
        lines.append("Only the draw of the galleries counts here, not that of the people: see test.py --per-query.")
    return "\n".join(lines)


def shared_identities(files: list[dict]) -> list[int] | None:
    """One for each test image, from any file."""
    found = [x["data"]["identities"] for x in files if "identities" in x["data"]]
    number = files[0]["data"].get("test_images")
    if any(len(identities) != number or identities != found[0] for identities in found):
        raise ResultsError("the identities that A and B give the test images differ, or are not one for each image")
    return found[0] if found else None


def spread_of_seeds(a: int, b: int) -> str:
    """What the intervals say of training seeds.

    a, b   the numbers of runs
    """
    if a == b == 1:
        return "one network each: how much another training seed changes is not in these intervals"
    few = [number for number in (a, b) if number > 1]
    alone = " Of the side with one run, how much another seed changes is not in them." if 1 in (a, b) else ""
    share = (1 - 1 / min(few)) ** 0.5
    return (
        f"{a} and {b} runs. Seeds are in these intervals, but drawn again, {min(few)} runs show {100 * share:.0f} % of "
        f"their standard deviation: the intervals are that much too narrow where seeds matter most.{alone}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="A.json B.json, or with --against A's runs")
    parser.add_argument("--against", type=Path, nargs="+", metavar="FILE", help="B's runs, each of another seed")
    parser.add_argument("--protocol", help="only this one")
    parser.add_argument("--unit", choices=UNITS, help="what is drawn again")
    parser.add_argument("--resamples", type=count(100), default=10000, help="how often, 100 at least")
    parser.add_argument("--seed", type=count(0), default=0)
    args = parser.parse_args()
    if args.against is None and len(args.files) != 2:
        parser.error(f"two files are wanted, A.json and B.json, or B's runs after --against; not {len(args.files)}")
    paths = (args.files, args.against) if args.against else (args.files[:1], args.files[1:])
    a, b = ([read_results(path) for path in side] for side in paths)
    for name, side, runs in zip("AB", paths, (a, b)):
        check_seeds(name, side, runs)
        print(f"{name}: {', '.join(map(str, side))}")
    comparable = pairs(a, b, args.protocol)
    identities = shared_identities([*a, *b])
    for pair in comparable:
        print("\n" + compare(*pair, identities, args.unit, args.resamples, args.seed))
    print(f"\nin percent; {spread_of_seeds(len(a), len(b))}")
    if a[0]["data"]["name"] == "synthetic":
        print("These figures are of the embedded data set; they say nothing about a real one.")


if __name__ == "__main__":
    fail_clearly(main, (ResultsError,))
