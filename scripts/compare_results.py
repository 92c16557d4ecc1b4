"""Is B better than A? Paired bootstrap between two results files of test.py, for each protocol that both hold.

    python scripts/compare_results.py runs/a/results.json runs/b/results.json
    python scripts/compare_results.py A.json B.json --protocol sysu/all/single-shot/random --unit trials

Prints A, B, B - A with its 95 % confidence interval and the two-sided p-value of each metric (docs/tables.md).
What is drawn again (--unit): by default the finest that both files allow,
  identities   all queries of a person together, in all trials; needs queries, and the identity of each test image
  queries      each query by itself, in all trials; needs queries
  trials       galleries, with the trial's figures
Results of different data, protocols, flip, weighting or re-ranking are not compared.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line  # noqa: E402

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np

from utils.reporting.results import METRICS, SETTING, ResultsError, read_results, setting  # noqa: E402

from utils.arguments import count  # noqa: E402

UNITS = ("identities", "queries", "trials")
NAMES = ("Rank-1", "Rank-5", "Rank-10", "Rank-20", "mAP", "mINP")  # as METRICS
BLOCK = 500  # resamples drawn at once


def paired_bootstrap(
    sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Differences when units are drawn again with replacement, the same ones for A and B.

    sums      (U, T, M)  difference B - A of metric m in trial t, summed over the queries of unit u
    counts    (U, T)     number of these queries
    returns   difference, lower and upper end of its 95 % interval (percentiles), two-sided p-value, each (M,)
    """
    def mean_over_trials(weight: np.ndarray) -> np.ndarray:  # (R, U) -> (R, M)
        total = (weight @ sums.reshape(units, -1)).reshape(len(weight), *sums.shape[1:])  # (R, T, M)
        number = (weight @ counts)[:, :, None]                                           # (R, T, 1)
        with np.errstate(invalid="ignore"):
            mean = np.nanmean(total / number, axis=1)  # a trial without any drawn query says nothing
        return mean.round(12)  # so that what cancels is 0

    units = len(sums)
    generator = np.random.default_rng(seed)
    drawn = np.concatenate([
        mean_over_trials(generator.multinomial(units, np.full(units, 1 / units), size=min(BLOCK, resamples - i)) * 1.0)
        for i in range(0, resamples, BLOCK)
    ])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    # How far the interval must be widened to reach zero; one is added because p = 0 cannot be seen in finite draws.
    beyond = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    return mean_over_trials(np.ones((1, units)))[0], low, high, np.minimum(1, 2 * (beyond + 1) / (resamples + 1))


def units_by_query(a: dict, b: dict, identities: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """`sums` and `counts` of paired_bootstrap; a unit is an identity, or without them a query."""
    rows = np.unique(np.concatenate([trial["queries"]["rows"] for trial in a["trials"]]))
    owner = rows if identities is None else np.asarray(identities)[rows]
    units, unit_of_row = np.unique(owner, return_inverse=True)
    sums = np.zeros((len(units), len(a["trials"]), len(METRICS)))
    counts = np.zeros(sums.shape[:2])
    for t, (trial_a, trial_b) in enumerate(zip(a["trials"], b["trials"])):
        unit = unit_of_row[np.searchsorted(rows, trial_a["queries"]["rows"])]
        np.add.at(sums[:, t], unit, figures_by_query(trial_b) - figures_by_query(trial_a))
        np.add.at(counts[:, t], unit, 1)
    return sums, counts


def figures_by_query(trial: dict) -> np.ndarray:
    """(Q, M), in the order of METRICS; their mean is the trial's figures."""
    rank = np.asarray(trial["queries"]["rank"])
    ranks = [rank <= k for k in (1, 5, 10, 20)]
    return np.stack([*ranks, trial["queries"]["ap"], trial["queries"]["inp"]], axis=1).astype(float)


def figures_by_trial(result: dict) -> np.ndarray:
    """(T, M)"""
    return np.array([[trial[metric] for metric in METRICS] for trial in result["trials"]])


def check_pair(a: dict, b: dict) -> None:
    """Both results must be of the same trials and queries, and their figures those of their queries."""
    for what, found in (
        ("trials", [len(result["trials"]) for result in (a, b)]),
        ("valid queries in each trial", [[trial["valid_queries"] for trial in result["trials"]] for result in (a, b)]),
    ):
        if found[0] != found[1]:
            raise ResultsError(f"{a['protocol']}: A and B have different numbers of {what}: {found[0]} and {found[1]}")
    for name, result in (("A", a), ("B", b)):
        for number, trial in enumerate(result["trials"] if by_query(result) else []):
            columns = [trial["queries"].get(key, []) for key in ("rows", "rank", "ap", "inp")]
            fits = {len(column) for column in columns} == {trial["valid_queries"]}
            reported = [trial[metric] for metric in METRICS]
            if not fits or not np.allclose(figures_by_query(trial).mean(axis=0), reported, rtol=0, atol=1e-6):
                raise ResultsError(f"{name}: the figures of {result['protocol']}, trial {number} are not its queries'")
    if by_query(a) and by_query(b):
        for number, (trial_a, trial_b) in enumerate(zip(a["trials"], b["trials"])):
            if trial_a["queries"]["rows"] != trial_b["queries"]["rows"]:
                raise ResultsError(f"{a['protocol']}, trial {number}: A and B have different queries")


def by_query(result: dict) -> bool:
    return all("queries" in trial for trial in result["trials"])


def choose_unit(a: dict, b: dict, identities: list[int] | None, wanted: str | None) -> str:
    """The finest unit there is, or the one wanted."""
    possible = [unit for unit, there in zip(UNITS, (
        by_query(a) and by_query(b) and identities is not None, by_query(a) and by_query(b), len(a["trials"]) > 1,
    )) if there]
    if wanted in possible or (wanted is None and possible):
        return wanted or possible[0]
    missing = f"the {wanted} of both" if wanted in UNITS[:2] else "a second trial, or each file's queries"
    raise ResultsError(f"{a['protocol']} lacks {missing}; test.py --per-query writes queries and their identities")


def pairs(a: dict, b: dict, protocol: str | None) -> list[tuple[dict, dict]]:
    """The results that both files hold, those in one alone being named; an error says why there is none."""
    if a["data"]["name"] != b["data"]["name"]:
        raise ResultsError(f"A was measured on {a['data']['name']}, B on {b['data']['name']}: they cannot be compared")
    if a["data"]["fingerprint"] != b["data"]["fingerprint"]:
        found = " and ".join(x["data"]["fingerprint"][:12] for x in (a, b))
        raise ResultsError(f"A and B were measured on different copies of {a['data']['name']} (fingerprints {found})")
    in_a, in_b = ({setting(result): result for result in x["results"]} for x in (a, b))
    if protocol:
        for name, found in (("A", in_a), ("B", in_b)):
            known = sorted({key[0] for key in found})
            if protocol not in known:
                raise ResultsError(f"{name} has no protocol {protocol}; it has {', '.join(known)}")
        in_a, in_b = ({key: found[key] for key in found if key[0] == protocol} for found in (in_a, in_b))
    common = [key for key in in_a if key in in_b]
    if not common:
        nearest = min(((x, y) for x in in_a for y in in_b), key=lambda pair: sum(p != q for p, q in zip(*pair)))
        why = ", ".join(f"{n} ({word(p)} and {word(q)})" for n, p, q in zip(SETTING, *nearest) if p != q)
        raise ResultsError(f"A and B have no result in common; the nearest differ in {why}")
    for name, found, other in (("A", in_a, in_b), ("B", in_b, in_a)):
        for key in found:
            if key not in other:
                print(f"left out, {name} alone has it: {describe(key)}")
    return [(in_a[key], in_b[key]) for key in common]


def describe(key: tuple) -> str:
    return ", ".join([key[0], *(f"{name} {word(value)}" for name, value in zip(SETTING[1:], key[1:]))])


def word(value: str | bool) -> str:
    return {True: "yes", False: "no"}.get(value, value)


def compare(a: dict, b: dict, identities: list[int] | None, unit: str | None, resamples: int, seed: int) -> str:
    """The text for one protocol."""
    check_pair(a, b)
    unit = choose_unit(a, b, identities, unit)
    if unit == "trials":
        sums = (figures_by_trial(b) - figures_by_trial(a))[:, None]
        counts = np.ones(sums.shape[:2])
    else:
        sums, counts = units_by_query(a, b, identities if unit == "identities" else None)
    if len(sums) < 2:
        raise ResultsError(f"{a['protocol']} has {len(sums)} of {unit}; nothing can be drawn again")
    figures = zip(
        NAMES, figures_by_trial(a).mean(axis=0), figures_by_trial(b).mean(axis=0),
        *paired_bootstrap(sums, counts, resamples, seed),
    )
    lines = [
        describe(setting(a)),
        f"drawn again: {len(sums)} {unit}, {resamples} times, seed {seed}; trials: {len(a['trials'])}",
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


def shared_identities(a: dict, b: dict) -> list[int] | None:
    """One for each test image, from either file."""
    found = [x["data"]["identities"] for x in (a, b) if "identities" in x["data"]]
    if any(len(identities) != a["data"].get("test_images") for identities in found) or found[1:] not in ([], found[:1]):
        raise ResultsError("the identities that A and B give the test images differ, or are not one for each image")
    return found[0] if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, metavar="A.json")
    parser.add_argument("b", type=Path, metavar="B.json")
    parser.add_argument("--protocol", help="only this one")
    parser.add_argument("--unit", choices=UNITS, help="what is drawn again")
    parser.add_argument("--resamples", type=count(100), default=10000, help="how often, 100 at least")
    parser.add_argument("--seed", type=count(0), default=0)
    args = parser.parse_args()
    a, b = read_results(args.a), read_results(args.b)
    print(f"A: {args.a}\nB: {args.b}")
    comparable = pairs(a, b, args.protocol)
    identities = shared_identities(a, b)
    for pair in comparable:
        print("\n" + compare(*pair, identities, args.unit, args.resamples, args.seed))
    print("\nin percent; one network each: how much another training seed changes is not in these intervals")
    if a["data"]["name"] == "synthetic":
        print("These figures are of the embedded data set; they say nothing about a real one.")


if __name__ == "__main__":
    fail_clearly(main, (ResultsError,))
