"""Results files of test.py, read and checked."""

import json
from collections.abc import Sequence
from pathlib import Path

SETTING = ("protocol", "flip", "weighting", "re-ranking", "trained on")
METRICS = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")


class ResultsError(ValueError):
    """Figures that cannot be read, or that don't belong together."""


def read_results(path: Path) -> dict:
    """A results file of test.py.

    raises   ResultsError
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error.strerror}); test.py writes such files") from None
    except ValueError as error:
        raise ResultsError(f"{path} is no JSON ({error}); was it cut off? Run test.py again") from None
    try:
        check_results(saved)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        missing = f"there is no {error}" if isinstance(error, KeyError) else error
        raise ResultsError(f"{path} is no results file of test.py: {missing}") from None
    return saved


def check_results(saved: dict) -> None:
    for key in ("name", "fingerprint"):
        if not isinstance(saved["data"][key], str):
            raise TypeError(f"data.{key} is no text")
    keys = [setting(result) for result in saved["results"]]
    if not keys:
        raise ValueError("it has no result")
    if len(set(keys)) < len(keys):
        raise ValueError("two of its results have the same protocol, flip, weighting, re-ranking and training data")
    for result in saved["results"]:
        if not result["trials"]:
            raise ValueError(f"{result['protocol']} has no trial")
        for trial in result["trials"]:
            int(trial["valid_queries"])
            for metric in METRICS:
                if not 0 <= trial[metric] <= 1:  # nor is nan
                    raise ValueError(f"{result['protocol']} has a {metric} of {trial[metric]}, which is no fraction")


def reranking(result: dict) -> str:
    """By what a result is re-ranked, or "no"; older ones say true for k-reciprocal distances."""
    by = result.get("rerank", False)
    return {True: "k_reciprocal", False: "no"}.get(by, by)


def rerankings(results: Sequence[dict]) -> str:
    """By what some results are re-ranked: one name, unless they differ."""
    return ", ".join(dict.fromkeys(map(reranking, results)))


def protocol_of(result: dict) -> str:
    """The protocol's name, and that of the data set that the network was trained on where that is another one."""
    elsewhere = result.get("trained_on")
    return result["protocol"] + (f" (trained on {elsewhere})" if elsewhere else "")


def trained_elsewhere(saved: dict) -> str:
    """The data set that the network of a results file was trained on, where that isn't the tested one; else ""."""
    return next((result["trained_on"] for result in saved["results"] if result.get("trained_on")), "")


def setting(result: dict) -> tuple:
    """What two results must share to be comparable (SETTING names it)."""
    trained_on = result.get("trained_on", "this data set")
    return result["protocol"], result["flip"], result["weighting"], reranking(result), trained_on
