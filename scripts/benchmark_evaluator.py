"""How fast the evaluator is, against the field's loop over queries and against the machine.

    python scripts/benchmark_evaluator.py                  # the sizes of the data sets, about 6 minutes on two cores
    python scripts/benchmark_evaluator.py --device cuda
    python scripts/benchmark_evaluator.py --quick          # a few seconds, to see it run

Embeddings are drawn, identity by identity; the numbers of queries, gallery entries, cameras and trials are the data
sets'. Every row compares the figures of both ways, trial by trial, and the script fails where they differ.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch

from assembly.drawn_protocols import draw_features, llcm, regdb, sysu
from common.words import how_many
from data.records import Protocol
from utils.arguments import count
from utils.evaluation.aim import aim_similarity
from utils.evaluation.evaluator import evaluate_protocol
from utils.evaluation.metrics import inner_products, rank_queries, sort_rows, summarize
from utils.evaluation.mser import mser_distance
from utils.evaluation.rerank import reranked_distance
from utils.measure import resident

FIGURES = {"rank1": 0, "rank5": 4, "rank10": 9, "rank20": 19}


def loop_over_queries(
    similarity: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray, query_ignores: np.ndarray,
    gallery_group: np.ndarray, counts: str, vectorised: bool,
) -> dict:
    """The field's evaluation in numpy: sort the matrix, then one query after the other.

    Published code divides the running number of hits by the position in a list comprehension; `vectorised` does that
    line in numpy too. The sort is stable, as ties decide about the last digits.
    """
    order = np.argsort(-similarity, axis=1, kind="stable")
    cmc, ap, inp = [], [], []
    for q in range(len(similarity)):
        ids = gallery_ids[order[q]][gallery_group[order[q]] != query_ignores[q]]
        match = (ids == query_ids[q]).astype(np.int32)
        if not match.any():
            continue
        hits = match.cumsum()
        found = hits
        if counts == "identities":
            first = np.unique(ids, return_index=True)[1]
            found = (ids[np.sort(first)] == query_ids[q]).cumsum()
        cmc.append(np.pad(np.minimum(found, 1)[:20], (0, max(0, 20 - len(found))), constant_values=1))
        last = np.flatnonzero(match)[-1]
        inp.append(hits[last] / (last + 1))
        if vectorised:
            precision = hits / np.arange(1, len(hits) + 1)
        else:
            precision = np.asarray([x / (i + 1.0) for i, x in enumerate(hits)])
        ap.append((precision * match).sum() / match.sum())
    return {"cmc": np.mean(cmc, axis=0), "mAP": np.mean(ap), "mINP": np.mean(inp), "valid_queries": len(ap)}


def timed(run: Callable, device: torch.device, repeat: int = 1) -> tuple[float, Any]:
    """Least seconds of `repeat` runs, and what the last one returned."""
    seconds = []
    for _ in range(repeat):
        synchronize(device)
        start = time.perf_counter()
        result = run()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(run: Callable, device: torch.device) -> float:
    """Memory that `run` needs beside what is held before it; nan where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before

    try:
        ctypes.CDLL(None).malloc_trim(0)                # give freed memory back, or its reuse would go unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except (OSError, AttributeError, TypeError):  # TypeError: Windows wants a name
        return float("nan")
    held = resident("VmRSS")
    run()
    return resident("VmHWM") - held


def same_figures(ours: dict, theirs: dict) -> bool:
    return ours["valid_queries"] == theirs["valid_queries"] and all(
        np.allclose(ours[name], theirs[name], rtol=0, atol=1e-9) for name in ("cmc", "mAP", "mINP")
    )


def measure(protocol: Protocol, identities: np.ndarray, features: torch.Tensor, loop: bool) -> dict:
    """Seconds per trial of each way, and whether all figures are equal."""
    device = features.device
    ids, ignores, group = (
        torch.as_tensor(x, device=device) for x in (identities, protocol.query_ignores, protocol.gallery_group)
    )
    ways = ("loop", "vectorised loop", "metrics", "product", "sort", "pass")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    equal, figures = True, []

    def metrics(similarity: torch.Tensor, query: torch.Tensor, gallery: torch.Tensor) -> dict:
        ignored = ignores[query, None] == group[gallery] if (protocol.query_ignores >= 0).any() else None
        return summarize(rank_queries(similarity, ids[query], ids[gallery], ignored, protocol.counts))

    for trial in protocol.trials:
        query, gallery = (torch.as_tensor(x, device=device) for x in (trial.query, trial.gallery))
        query_features, gallery_features = features[query], features[gallery]
        duration, similarity = timed(partial(inner_products, query_features, gallery_features), device)
        seconds["product"].append(duration)
        duration, summary = timed(partial(metrics, similarity, query, gallery), device, repeat=5)
        seconds["metrics"].append(duration)
        figures.append(summary)
        seconds["pass"].append(timed(similarity.amax, device, repeat=3)[0])
        seconds["sort"].append(timed(partial(sort_rows, similarity.view(torch.int32).long()), device)[0])
        for name in ("loop", "vectorised loop") if loop else ():
            arguments = (
                similarity.cpu().numpy(), identities[trial.query], identities[trial.gallery],
                protocol.query_ignores[trial.query], protocol.gallery_group[trial.gallery], protocol.counts,
            )
            duration, theirs = timed(partial(loop_over_queries, *arguments, name == "vectorised loop"), device)
            seconds[name].append(duration)
            equal &= same_figures(summary, theirs)

    duration, result = timed(
        lambda: evaluate_protocol(features, identities, protocol, flip=False, weighting="equal"), device
    )
    # One product for all trials rounds otherwise than one for each, so a few ranks may differ here.
    equal &= all(
        abs(trial[name] - summary["cmc"][k]) < 2e-3
        for trial, summary in zip(result["trials"], figures) for name, k in FIGURES.items()
    )
    number = len(protocol.trials)
    return {name: np.mean(s) if s else np.nan for name, s in seconds.items()} | {
        "whole": duration / number, "equal": equal, "rank1": np.mean([s["cmc"][0] for s in figures]),
    }


def memory_table(device: torch.device, quick: bool) -> str:
    """Peak memory of the metrics by chunk, for some queries and for twice as many."""
    queries, entries = (100, 300) if quick else (4000, 3010)
    ids, query_ids = (torch.arange(n, device=device) % 96 for n in (entries, 2 * queries))
    lines = ["chunk (MiB)   peak beside the matrix (MiB):" + "".join(
        f" {q} queries ({4 * q * entries / 2**20:.0f} MiB)" for q in (queries, 2 * queries)
    )]
    matrices = [torch.rand(q, entries, device=device) for q in (queries, 2 * queries)]
    for megabytes in (4, 16, 64, 256):
        peaks = [
            peak_bytes(partial(rank_queries, m, query_ids[:len(m)], ids, chunk_bytes=megabytes << 20), device)
            for m in matrices
        ]
        lines.append(f"{megabytes:11d}   " + "".join(f"{peak / 2**20:14.0f}" for peak in peaks))
    return "\n".join(lines)


def reranking_table(device: torch.device, quick: bool) -> str:
    """A trial's matrix of similarities by each re-ranking: seconds, times the plain product's, peak memory."""
    dimensions = 64 if quick else 2048
    heading = f"re-ranking of a trial, {dimensions} dimensions"
    lines = [f"{heading:45s}{'seconds':>9s}{'x none':>8s}{'MiB':>8s}"]
    for identities, protocol in (sysu(1, 1, quick), regdb(quick)):
        features, trial = draw_features(identities, dimensions, device), protocol.trials[0]
        query, gallery = (features[torch.as_tensor(rows, device=device)] for rows in (trial.query, trial.gallery))
        by_night = len(query) != len(gallery)  # RegDB asks by day, and MSER sees four versions of what is seen by day
        sides = (query.expand(1 if by_night else 4, -1, -1), gallery.expand(4 if by_night else 1, -1, -1))
        ways = {
            "none": partial(inner_products, query, gallery), "k_reciprocal": partial(reranked_distance, query, gallery),
            "mser": partial(mser_distance, *sides), "aim": partial(aim_similarity, query, gallery, 4, 1),
        }
        seconds = {name: timed(way, device, repeat=2)[0] for name, way in ways.items()}
        for name, way in ways.items():
            times, peak = seconds[name] / seconds["none"], peak_bytes(way, device) / 2**20
            lines.append(f"{protocol.name + ', ' + name:45s}{seconds[name]:9.2f}{times:8.1f}{peak:8.0f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--trials", type=count(1), default=10, help="of SYSU-MM01 and LLCM")
    parser.add_argument("--dimensions", type=count(1), default=12288, help="of the embeddings")
    parser.add_argument("--quick", action="store_true", help="a small run that only shows that all works")
    parser.add_argument("--no-loop", action="store_true", help="leave the field's loop out")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.dimensions = 2, 64
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else how_many(torch.get_num_threads(), "thread")
    print(f"{device.type} ({name}), torch {torch.__version__}, numpy {np.__version__}, {options.dimensions} dimensions")
    print("Milliseconds per trial. loop: the field's; loop, vec.: with its slowest line in numpy; metrics: ours, the")
    print("matrix given; sort: sorting its keys alone; pass: reading the matrix once; product: making it; whole: ours,")
    print("from embeddings to results, with the products that trials share. figures: whether loops and ours agree.\n")
    columns = {
        "loop": "loop", "vectorised loop": "loop, vec.", "metrics": "metrics", "sort": "sort", "pass": "pass",
        "product": "product", "whole": "whole",
    }
    print(f"{'':30s}{'queries':>8s}{'gallery':>8s}{'trials':>7s}" + "".join(f"{c:>11s}" for c in columns.values())
          + f"{'loop/ours':>10s}{'vec./ours':>10s}  figures")
    cases = [sysu(1, options.trials, options.quick), sysu(10, options.trials, options.quick),
             regdb(options.quick), llcm(options.trials, options.quick)]
    all_equal = True
    for identities, protocol in cases:
        features = draw_features(identities, options.dimensions, device)
        row = measure(protocol, identities, features, not options.no_loop)
        first = protocol.trials[0]
        print(f"{protocol.name:30s}{len(first.query):8d}{len(first.gallery):8d}{len(protocol.trials):7d}"
              + "".join(f"{1e3 * row[c]:11.1f}" for c in columns)
              + f"{row['loop'] / row['metrics']:9.0f}x{row['vectorised loop'] / row['metrics']:9.0f}x"
              + ("  equal" if row["equal"] else "  DIFFERENT") + f" (Rank-1 {100 * row['rank1']:.1f} %)", flush=True)
        all_equal &= row["equal"]
        del features
    print("\n" + memory_table(device, options.quick))
    print("\n" + reranking_table(device, options.quick))
    return 0 if all_equal else 1


if __name__ == "__main__":
    fail_clearly(lambda: sys.exit(main()), ())
