"""The paired bootstrap: cases that can be counted by hand, and what it refuses."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import programs
import pytest
from programs import Done

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "compare_results.py"
spec = importlib.util.spec_from_file_location("compare_results", SCRIPT)
comparison = importlib.util.module_from_spec(spec)
spec.loader.exec_module(comparison)

PROTOCOL = "sysu/all/single-shot/random"


def trial(ranks, rows=None, queries=True) -> dict:
    """One trial from the queries' ranks; AP and INP are 1 / rank."""
    ranks = np.asarray(ranks)
    figures = {f"rank{k}": float((ranks <= k).mean()) for k in (1, 5, 10, 20)}
    figures |= {key: float((1 / ranks).mean()) for key in ("mAP", "mINP")} | {"valid_queries": len(ranks)}
    if queries:
        figures["queries"] = {
            "rows": list(range(len(ranks))) if rows is None else rows, "rank": ranks.tolist(),
            "ap": (1 / ranks).tolist(), "inp": (1 / ranks).tolist(),
        }
    return figures


def write(path, trials, identities=None, fingerprint="f" * 64, name="sysu", **changes) -> Path:
    result = {"protocol": PROTOCOL, "flip": True, "weighting": "equal", "rerank": False, "trials": trials} | changes
    data = {"name": name, "fingerprint": fingerprint, "test_images": 40}
    if identities is not None:
        data["identities"] = identities
    path.write_text(json.dumps({"data": data, "results": [result]}))
    return path


def run(*arguments, check=True) -> Done:
    return programs.run(SCRIPT, *arguments, check=check)


def refused(*arguments) -> str:
    done = run(*arguments, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def line_of(metric: str, text: str) -> list[str]:
    line, = [line for line in text.splitlines() if line.startswith(metric + " ")]
    return line.replace("[", " ").replace("]", " ").replace(",", " ").split()[1:]


def test_two_units_that_differ_by_nothing_and_by_one():
    """Drawn again, their mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4: p is twice 1/4."""
    difference, low, high, p = comparison.paired_bootstrap(
        np.array([[[0.0]], [[1.0]]]), np.ones((2, 1)), resamples=20000, seed=0
    )
    assert (difference, low, high) == (0.5, 0, 1)
    assert p == pytest.approx(0.5, abs=0.02)


def test_spread_is_the_standard_error_of_the_mean():
    sums = np.random.default_rng(1).normal(size=(400, 1, 1))
    difference, low, high, _ = comparison.paired_bootstrap(sums, np.ones((400, 1)), resamples=20000, seed=0)
    assert difference == pytest.approx(sums.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * sums.std() / 20, rel=0.03)


def test_units_count_by_their_queries_and_trials_equally():
    """Trial 0: 3 of 4 queries better; trial 1, with one valid query: none. The mean of 3/4 and 0."""
    sums, counts = np.array([[[3.0], [0.0]], [[0.0], [0.0]]]), np.array([[3.0, 0.0], [1.0, 1.0]])
    assert comparison.paired_bootstrap(sums, counts, 100, 0)[0] == 0.375


def test_a_file_beside_itself_does_not_differ(tmp_path):
    a = write(tmp_path / "a.json", [trial([1, 3, 8, 30]), trial([2, 1, 1, 9])], identities=[1, 1, 2, 2] + [3] * 36)
    for unit in comparison.UNITS:
        text = run(a, a, "--unit", unit, "--resamples", 200).stdout
        for metric in comparison.NAMES:
            assert line_of(metric, text)[2:] == ["+0.00", "+0.00", "+0.00", "1.0000"]


def test_queries_of_one_person_are_no_independent_evidence(tmp_path):
    """Twenty queries of one person improve, twenty of another don't: sure by query, a coin's throw by identity."""
    identities = [7] * 20 + [8] * 20
    a = write(tmp_path / "a.json", [trial([2] * 40)], identities)
    b = write(tmp_path / "b.json", [trial([1] * 20 + [2] * 20)], identities)
    default, by_query = run(a, b), run(a, b, "--unit", "queries")
    assert "drawn again: 2 identities" in default.stdout and "drawn again: 40 queries" in by_query.stdout
    rank1, by_query = line_of("Rank-1", default.stdout), line_of("Rank-1", by_query.stdout)
    assert rank1[:5] == ["0.00", "50.00", "+50.00", "+0.00", "+100.00"]
    assert float(rank1[5]) == pytest.approx(0.5, abs=0.03)
    assert float(by_query[3]) > 30 and float(by_query[5]) < 0.001


def test_queries_count_in_the_trials_where_they_are_valid(tmp_path):
    identities = list(range(40))
    a = write(tmp_path / "a.json", [trial([1, 1, 9], rows=[0, 1, 2]), trial([1, 9], rows=[0, 2])], identities)
    b = write(tmp_path / "b.json", [trial([1, 1, 1], rows=[0, 1, 2]), trial([1, 1], rows=[0, 2])], identities)
    text = run(a, b, "--resamples", 500).stdout
    assert "drawn again: 3 identities" in text and line_of("Rank-1", text)[2] == "+41.67"  # mean of 1/3 and 1/2


def test_without_queries_the_trials_are_drawn(tmp_path):
    a = write(tmp_path / "a.json", [trial([2, 2], queries=False)] * 3)
    b = write(tmp_path / "b.json", [trial([1, 2], queries=False)] * 3)
    text = run(a, b, "--resamples", 200).stdout
    assert "drawn again: 3 trials" in text and "Only the draw of the galleries" in text
    assert line_of("Rank-1", text)[2:5] == ["+50.00", "+50.00", "+50.00"]
    assert "lacks the queries of both; test.py --per-query writes" in refused(a, b, "--unit", "queries")
    alone = write(tmp_path / "alone.json", [trial([2, 2], queries=False)])
    assert "a second trial" in refused(alone, alone)


def test_figures_of_the_embedded_data_set_are_called_so(tmp_path):
    a = write(tmp_path / "a.json", [trial([1, 2])], name="synthetic")
    assert "embedded data set" in run(a, a, "--resamples", 100).stdout


@pytest.mark.parametrize("change, words", [
    ({"fingerprint": "0" * 64}, "different copies of sysu"),
    ({"name": "llcm"}, "A was measured on sysu, B on llcm"),
    ({"protocol": "sysu/indoor/single-shot/random"}, f"protocol ({PROTOCOL} and sysu/indoor/single-shot/random)"),
    ({"flip": False}, "flip (yes and no)"),
    ({"weighting": "neck"}, "weighting (equal and neck)"),
    ({"rerank": True}, "re-ranking (no and k_reciprocal)"),
])
def test_refuses_what_is_not_comparable(tmp_path, change, words):
    a = write(tmp_path / "a.json", [trial([1, 2])])
    assert words in refused(a, write(tmp_path / "b.json", [trial([1, 2])], **change))


def test_refuses_other_queries_and_figures_that_are_not_theirs(tmp_path):
    a = write(tmp_path / "a.json", [trial([1, 2])])
    assert "different queries" in refused(a, write(tmp_path / "b.json", [trial([1, 2], rows=[0, 5])]))
    assert "numbers of valid queries" in refused(a, write(tmp_path / "b.json", [trial([1, 2, 3])]))
    assert "A and B have different numbers of trials" in refused(a, write(tmp_path / "b.json", [trial([1, 2])] * 2))
    assert "not its queries'" in refused(a, write(tmp_path / "b.json", [trial([1, 2]) | {"mAP": 0.9}]))
    assert "one for each image" in refused(a, write(tmp_path / "b.json", [trial([1, 2])], identities=[1, 2]))


def test_bad_input_gets_one_sentence(tmp_path):
    a = write(tmp_path / "a.json", [trial([1, 2])])
    assert "cannot be read" in refused(a, tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text(a.read_text()[:100])
    assert "no JSON" in refused(a, broken)
    assert f"A has no protocol sysu/all; it has {PROTOCOL}" in refused(a, a, "--protocol", "sysu/all")
    for option, number, least in (("--resamples", 99, 100), ("--seed", -1, 0)):
        done = run(a, a, option, number, check=False)
        assert f"argument {option}: {number} is not a whole number of {least} at least" in done.stderr


def test_a_result_in_one_file_alone_is_named(tmp_path):
    a, b = write(tmp_path / "a.json", [trial([1, 2])]), write(tmp_path / "b.json", [trial([1, 2])])
    saved = json.loads(a.read_text())
    saved["results"].append(saved["results"][0] | {"weighting": "neck"})
    a.write_text(json.dumps(saved))
    text = run(a, b, "--resamples", 100).stdout
    assert f"left out, A alone has it: {PROTOCOL}, flip yes, weighting neck" in text


# Several runs of each


def test_runs_of_each_side_are_drawn_by_themselves():
    """One unit type, no spread between people: A's runs have 0 and 1, B's 1 and 2. Drawn again, each mean is off its
    own by -1/2, 0 or 1/2 with probability 1/4, 1/2, 1/4: their difference, 1, has the variance 1/8 + 1/8."""
    a, b = (np.array(runs)[:, None, None, None] * np.ones((1, 3, 1, 1)) for runs in ([0.0, 1.0], [1.0, 2.0]))
    difference, low, high, p = comparison.bootstrap(a, b, np.ones((3, 1)), resamples=20000, seed=0)
    assert (difference, low, high) == (1, 0, 2)
    assert p == pytest.approx(2 / 16, abs=0.01)  # both at their ends: the difference is 0


def test_people_are_drawn_once_for_all_runs():
    """What is hard for every network cancels, whatever the runs."""
    hard = np.random.default_rng(1).normal(size=(1, 50, 2, 1))
    a, b = hard + np.zeros((3, 1, 1, 1)), hard + np.full((2, 1, 1, 1), 0.25)
    assert [x.item() for x in comparison.bootstrap(a, b, np.ones((50, 2)), 500, 0)[:3]] == [0.25] * 3


def test_more_seeds_are_in_the_interval(tmp_path):
    ranks = {"a": ([1, 2, 2, 2] * 10, [2, 2, 2, 2] * 10), "b": ([1, 1, 2, 2] * 10, [1, 2, 1, 2] * 10)}
    files = {
        name: [write(tmp_path / f"{name}{seed}.json", [trial(r)], list(range(40))) for seed, r in enumerate(of_seeds)]
        for name, of_seeds in ranks.items()
    }
    text = run(*files["a"], "--against", *files["b"]).stdout
    assert "drawn again: 2 runs of A, 2 of B, and for all of them the same 40 identities" in text
    assert "2 runs show 71 % of their standard deviation" in text
    several, one = (line_of("Rank-1", words) for words in (text, run(files["a"][0], files["b"][0]).stdout))
    assert several[:3] == ["12.50", "50.00", "+37.50"] and one[:3] == ["25.00", "50.00", "+25.00"]
    assert float(several[4]) - float(several[3]) > float(one[4]) - float(one[3])
    alone = run(files["a"][0], "--against", *files["b"]).stdout
    assert "Of the side with one run, how much another seed changes is not in them" in alone


def test_runs_of_one_method_are_of_other_seeds_and_nothing_else(tmp_path):
    def made(name, sha256, **config):
        path = write(tmp_path / name, [trial([1, 2])])
        saved = json.loads(path.read_text()) | {"checkpoint": {"sha256": sha256}, "config": config}
        path.write_text(json.dumps(saved))
        return path

    a = made("a.json", "1", SEED=0, OUTPUT="x", SOLVER={"EPOCHS": 3})
    b = made("b.json", "2", SEED=1, OUTPUT="y", SOLVER={"EPOCHS": 3})
    longer = made("longer.json", "3", SEED=2, SOLVER={"EPOCHS": 4})
    assert "runs of A" in run(a, b, "--against", longer, "--resamples", 100).stdout
    assert "are of one network; runs differ in their seed" in refused(a, a, "--against", b)
    assert "differ in SOLVER.EPOCHS; runs of one method differ in SEED alone" in refused(a, longer, "--against", b)
    done = run(a, b, longer, check=False)
    assert "two files are wanted, A.json and B.json, or B's runs after --against; not 3" in done.stderr
    b.write_text(b.read_text().replace('"flip": true', '"flip": false'))
    assert "flip (yes and no)" in refused(a, b, "--against", longer)
