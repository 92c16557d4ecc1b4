"""Methods side by side: from configs to the table, after a kill, and again; what its figures and verdicts mean."""

import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.text import Text
from programs import command, draw_nothing, started_here
from scipy.stats import ttest_ind
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import compare_methods as compare

from assembly import experiment
from data.synthetic import write_synthetic
from utils.measure import operations
from utils.reporting import plots

TINY = {
    "DATA": {"NAME": "synthetic", "HEIGHT": 32, "WIDTH": 16, "WORKERS": 0, "ERASING_AREA": [0.1, 0.3]},
    "MODEL": {"NAME": "cmfn", "BACKBONE": "resnet18", "PRETRAINED": "none", "STAGES": 3},
    "SOLVER": {"EPOCHS": 1, "IDENTITIES": 2, "IMAGES": 1},
    "DEVICE": "cpu",
}
PROTOCOLS = ["synthetic/all/single-shot/random", "synthetic/indoor/single-shot/random"]


def write_config(folder, name, **sections):
    options = {key: value | sections.get(key, {}) if isinstance(value, dict) else value for key, value in TINY.items()}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(options))
    return str(path)


def main(*words):
    """What compare_methods.py prints with these arguments, or its error."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(subprocess, "run", started_here)
        draw_nothing(patch)
        patch.setattr(sys, "argv", ["compare_methods.py", *map(str, words)])
        compare.main()
    return printed.getvalue()


def table(output):
    """The lines of comparison.md's table by config, each by column."""
    rows = [line for line in (output / "comparison.md").read_text().splitlines() if line.startswith("| ")]
    header, _, *lines = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines}


def written(output):
    """When each file that took work was written."""
    kinds = ("*/seed*/last.pth", "*/seed*/results.json", "*/cost.json")
    return {path: path.stat().st_mtime_ns for kind in kinds for path in output.glob(kind)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory, thin):
    """A comparison of one method that was killed, and went on as one of two: (arguments, its folder, what was left)."""
    folder = tmp_path_factory.mktemp("compared")
    output, root = folder / "out", folder / "synthetic"
    write_synthetic(root, seed=3, train_identities=4, test_identities=3, images_per_camera=2, height=32, width=16)
    cmfn = write_config(folder, "tiny_cmfn")
    deen = write_config(folder, "tiny_deen", MODEL={"NAME": "deen"}, SOLVER={"IDENTITIES": 4})
    options = ["--seeds", "0,1", "--rounds", "2", "--reference", "cmfn", "--output", output, "DATA.ROOT", root]

    process = subprocess.Popen(
        command("scripts/compare_methods.py", "--configs", cmfn, *options), cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, start_new_session=True,
    )
    deadline = time.time() + 120
    while not (output / "tiny_cmfn" / "seed0" / "results.json").exists():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = written(output)
    killed = {"left": left, "cost": json.loads((output / "tiny_cmfn" / "cost.json").read_text())}
    main("--configs", cmfn, deen, *options)
    return [cmfn, deen, *options], output, killed


@pytest.mark.long
def test_a_killed_comparison_keeps_what_it_had_and_goes_on(compared):
    _, output, killed = compared
    kept = [path for path in killed["left"] if path.name != "cost.json"]
    assert {path.name for path in kept} == {"last.pth", "results.json"} and len(kept) == 2
    assert all(written(output)[path] == killed["left"][path] for path in kept)
    assert len(written(output)) == 2 * (2 + 2 + 1)  # of each method: two checkpoints, two results, the costs


@pytest.mark.long
def test_a_second_run_computes_nothing_and_writes_the_same_table(compared):
    arguments, output, _ = compared
    before, text = written(output), (output / "comparison.md").read_text()
    printed = main("--configs", *arguments)
    assert printed.count("the training was complete already") == 4 and printed.count("measured already") == 2
    assert written(output) == before and (output / "comparison.md").read_text() == text and text in printed
    assert "comparison.json, comparison.png, comparison.svg" in printed and (output / "comparison.svg").exists()


@pytest.mark.long
def test_runs_that_were_copied_together_are_kept(compared, tmp_path):
    """As from another machine, where the data set lay elsewhere."""
    (*arguments, root), output, _ = compared
    for name, seed in (("tiny_cmfn", 0), ("tiny_cmfn", 1), ("tiny_deen", 0), ("tiny_deen", 1)):
        shutil.copytree(output / name / f"seed{seed}", tmp_path / name / f"seed{seed}")
    before = written(tmp_path)
    arguments = [tmp_path if argument is output else argument for argument in arguments]
    moved = root.rename(tmp_path / "data")
    try:
        printed = main("--configs", *arguments, moved, "--no-cost")
    finally:
        moved.rename(root)
    assert printed.count("the training was complete already") == 4 and "no comparison.png: " in printed
    assert len(before) == 8 and written(tmp_path) == before
    for name, line in table(tmp_path).items():
        assert line.items() <= table(output)[name].items()


@pytest.mark.long
def test_each_cell_comes_from_the_results_files_and_the_costs(compared):
    _, output, _ = compared
    lines = table(output)
    assert list(lines) == ["tiny_cmfn", "tiny_deen"]
    for name, line in lines.items():
        runs = [json.loads((output / name / f"seed{seed}" / "results.json").read_text()) for seed in (0, 1)]
        cost = json.loads((output / name / "cost.json").read_text())
        assert runs[0]["config"]["SEED"] == 0 and runs[1]["config"]["SEED"] == 1
        assert line["Embedding"] == "equal, flip"
        assert line["Parameters"] == f"{runs[0]['parameters'] / 1e6:.2f} M"
        assert cost["parameters"] == runs[0]["parameters"]
        for protocol in PROTOCOLS:
            of_seeds = [
                next(r["mean"] for r in run["results"] if (r["protocol"], r["weighting"]) == (protocol, "equal"))
                for run in runs
            ]
            for metric, label in (("rank1", "Rank-1"), ("mAP", "mAP"), ("mINP", "mINP")):
                a, b = (100 * mean[metric] for mean in of_seeds)
                assert line[f"{protocol} {label}"] == f"{(a + b) / 2:.2f} ± {abs(a - b) / 2 ** 0.5:.2f}"
        steps = [own / other for own, other in zip(cost["seconds"], cost["reference_seconds"], strict=True)]
        assert len(steps) == 2 and line["step / tiny_cmfn"].startswith(f"{statistics.mean(steps):.2f} (")
    assert [line["Batch"] for line in lines.values()] == ["2x1", "4x1"]
    assert [line["Images a step"] for line in lines.values()] == ["4", "8"]


@pytest.mark.long
def test_the_notes_say_what_the_figures_are(compared):
    _, output, _ = compared
    note = (output / "comparison.md").read_text()
    for part in (
        "is not SYSU-MM01", "Seeds 0, 1.", "threads: ", f"torch {torch.__version__}", "over one of tiny_cmfn",
        "tiny_cmfn, whose step took", "two operations", "differ by 4.30 standard errors",
    ):
        assert part in note
    assert note.count("\n- synthetic/") == 6  # a verdict for each protocol and metric
    latex = (output / "comparison.tex").read_text()
    assert r"tiny\_cmfn & 32x16 & 1 & 2x1" in latex and latex.startswith("% Methods on synthetic.")
    first = json.loads((output / "comparison.json").read_text())["methods"][0]["figures"][0]
    assert first["protocol"] == PROTOCOLS[0] and first["metric"] == "rank1" and len(first["seeds"]) == 2


@pytest.mark.long
def test_a_training_needs_room_for_weights_gradients_and_momentum(compared):
    cost = compared[2]["cost"]  # measured in a process of its own, as always where not in a test
    assert 3 * 4 * cost["parameters"] < cost["peak"] < 2e9


@pytest.mark.long
def test_costs_or_figures_alone_and_one_seed(compared):
    (cmfn, deen, _, _, *options), output, _ = compared
    main("--configs", cmfn, deen, "--cost-only", *options)
    assert all("GFLOPs" in line and f"{PROTOCOLS[0]} mAP" not in line for line in table(output).values())
    assert not list(output.glob("*.png")) and not list(output.glob("*.svg"))
    printed = main("--configs", cmfn, deen, *options[-2:], "--no-cost", "--output", output, "--seeds", "1")
    assert all("GFLOPs" not in line and "±" not in line[f"{PROTOCOLS[0]} mAP"] for line in table(output).values())
    assert "One seed: no deviation" in printed


def test_a_config_on_other_data_is_refused_before_anything_runs(tmp_path):
    here, there = write_config(tmp_path, "a"), write_config(tmp_path, "b", DATA={"NAME": "sysu"})
    with pytest.raises(experiment.ExperimentError, match="a is on synthetic in .*, and b on sysu in "):
        main("--configs", here, there, "--output", tmp_path / "out")
    other = write_config(tmp_path, "c", DATA={"ROOT": "elsewhere"})
    with pytest.raises(experiment.ExperimentError, match="a is on .*SYSU-MM01.*, and c on .*elsewhere"):
        main("--configs", here, other, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_configs_of_one_name_or_options_of_the_script_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    twice = [write_config(tmp_path, "a"), write_config(tmp_path / "other", "a")]
    with pytest.raises(experiment.ExperimentError, match="the same name"):
        main("--configs", *twice)
    with pytest.raises(experiment.ExperimentError, match="the same name"):
        main("--configs", twice[0], twice[0])
    for words in (["SEED", "3"], ["OUTPUT", "there"], ["--seeds", "0,0"]):
        with pytest.raises(experiment.ExperimentError, match="set by --output and --seeds"):
            main("--configs", twice[0], *words)


def test_words_that_name_no_file_are_refused(capsys):
    with pytest.raises(SystemExit):
        main("--configs", "sysu_cmfn", "DATA.ROOT", "there")
    assert "--configs wants yaml files" in capsys.readouterr().err


def test_an_epoch_chosen_on_test_data_is_called_inflated():
    runs = {name: [{"config": {"SOLVER": {"CHOOSE_BEST_ON_TEST_DATA": tuned}}}] for name, tuned in
            (("a", False), ("b", True))}
    assert compare.figures_note(runs, [0]).endswith("Inflated, for the epoch was chosen on test data: b.")
    assert "Inflated" not in compare.figures_note({"a": runs["a"]}, [0])


def results(weighting="equal", fingerprint="f", protocol="p", rerank=False):
    config = {"OUTPUT": "there", "MODEL": {"NAME": "cmfn"}}
    return {"config": config, "data": {"fingerprint": fingerprint},
            "results": [{"protocol": protocol, "weighting": weighting, "rerank": rerank}]}


@pytest.mark.parametrize("other, message", [
    (results(fingerprint="g"), r"was tested on other data than there \(by fingerprint\)"),
    (results(protocol="q"), "tested by q; p came before"),
    (results(weighting="neck"), "no figures by 'equal'"),
    (results(rerank="mser"), "TEST.RERANK: there has the re-ranking mser, there no"),
])
def test_results_that_do_not_belong_together_are_refused(other, message):
    compare.check_comparable(results(), results())
    with pytest.raises(experiment.ExperimentError, match=message):
        compare.check_comparable(other, results())


def test_the_reference_is_found_by_the_end_of_its_name():
    names = ["sysu_base", "sysu_agw", "sysu_cmfn", "cmfn"]
    assert compare.reference_of(None, names) == compare.reference_of("agw", names) == "sysu_agw"
    assert compare.reference_of("cmfn", names) == "cmfn" and compare.reference_of("sysu_cmfn", names) == "sysu_cmfn"
    assert compare.reference_of(None, ["llcm_deen", "llcm_cmfn"]) == "llcm_deen"
    for wanted, found in (("gw", 0), ("deen", 0), ("base", 2)):
        with pytest.raises(experiment.ExperimentError, match=f"is {found} of the configs"):
            compare.reference_of(wanted, [*names, "llcm_base"])


def test_two_seeds_of_each_tell_apart_what_differs_by_more_than_four_standard_errors():
    # Variances 2 and 2: the difference of the means has the standard error sqrt((2 + 2) / 2), times 4.303 is 6.08.
    low = [0.0, 2.0]
    assert compare.told_apart({"low": low, "high": [6.0, 8.0]}) == {}
    assert compare.told_apart({"low": low, "high": [7.0, 9.0]}) == {"high": ["low"]}
    assert compare.limit(2, 2) == pytest.approx(4.303, abs=1e-3)  # of one pair, Student's own


def test_several_methods_need_tukeys_studentized_range():
    # Tukey's table: 4.339 for three methods and six degrees of freedom, times sqrt(1 / 3) with variances of 1: 2.505.
    for difference, told in ((2.4, {}), (2.6, {"c": ["b", "a"]})):
        samples = {"b": [0.0, 1.0, 2.0], "a": [0.0, 1.0, 2.0], "c": [difference + x for x in (0.0, 1.0, 2.0)]}
        assert compare.told_apart(samples) == told
    assert compare.limit(3, 3) == pytest.approx(4.339 / 2 ** 0.5, abs=1e-3)


def test_seeds_that_all_give_one_figure_hide_no_difference():
    assert compare.told_apart({"a": [0.5, 0.5], "b": [0.6, 0.6], "c": [0.6, 0.6]}) == {"b": ["a"], "c": ["a"]}


def test_twelve_methods_that_are_equal_are_seldom_told_apart():
    draw = np.random.default_rng(0).normal(size=(10, 12, 3))
    uncorrected = [[ttest_ind(a, b).pvalue for a, b in itertools.combinations(world, 2)] for world in draw]
    assert sum(min(p_values) < 0.05 for p_values in uncorrected) >= 4
    alike = [{str(method): list(values) for method, values in enumerate(world)} for world in draw]
    assert sum(bool(compare.told_apart(world)) for world in alike) <= 2  # one in twenty


def test_verdicts_name_the_pairs_that_are_told_apart():
    figures = {f"sysu_{name}": {("p", "mAP"): values} for name, values in
               {"low": [0.0, 0.2], "middle": [4.0, 11.0], "high": [16.0, 16.2], "top": [16.1, 16.3]}.items()}
    intro, _, *lines = compare.verdicts(figures, seeds=2).splitlines()
    assert lines == ["- p mAP: 2 of 6", "  - top, high above low"]
    assert "all 6 pairs" in intro and "by 4.07 standard errors" in intro
    alike = compare.verdicts({name: figures[name] for name in ("sysu_high", "sysu_top")}, seeds=2)
    assert alike.endswith("- p mAP: none of 1")


@pytest.fixture(scope="module")
def drawn():
    """Twelve invented methods, half of which cost the same and lie close together."""
    figures = {f"sysu_method{i}": {("p", "rank1"): [0.5 + 0.004 * i, 0.53 + 0.004 * i]} for i in range(12)}
    costs = {name: {"operations": 1e10 * (1 + max(0, i - 5))} for i, name in enumerate(figures)}
    return compare.picture(figures, costs, ["sysu_method3"], "synthetic", [0, 1])


def test_each_name_in_the_picture_can_be_read(drawn):
    axes, = drawn.axes
    drawn.draw_without_rendering()
    names = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert [*names] == [f"method{i}" + "*" * (i == 3) for i in range(12)]
    points = axes.transData.transform([text.xy for text in axes.texts])
    for name, box in names.items():
        assert not box.count_overlaps([other for label, other in names.items() if label != name]), name
        assert not any(box.contains(*point) for point in points) and axes.bbox.contains(*box.min), name
        assert axes.bbox.contains(*box.max), name


def test_the_picture_says_what_it_shows(drawn):
    axes, = drawn.axes
    places = [text.xy for text in axes.texts]
    assert places[7] == (pytest.approx(30), pytest.approx(54.3))
    alike = [x for x, _ in places[:6]]  # of 10 GFLOPs each
    assert alike == sorted(set(alike)) and 9 < alike[0] < alike[-1] < 11
    assert alike[2] * alike[3] == pytest.approx(10 ** 2)  # on either side of it
    (bars,) = axes.containers[0].lines[2]
    assert bars.get_segments()[7][:, 1].tolist() == pytest.approx([54.3 - 2.1213, 54.3 + 2.1213], abs=1e-3)
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "p: Rank-1, %" and "GFLOPs" in axes.get_xlabel()
    note = " ".join(drawn.get_supxlabel().split())
    for part in ("Data set: synthetic.", "over seeds 0, 1; bars", "* inflated", "which is not SYSU-MM01"):
        assert part in note
    content = plots.svg(drawn)
    assert content == plots.svg(drawn) and b"</svg>" in content and plots.png(drawn).startswith(b"\x89PNG")


def test_time_is_relative_to_the_reference_in_each_round():
    cost = {"seconds": [2.0, 6.0], "reference_seconds": [1.0, 2.0], "pairs": 24, "reference_pairs": 32}
    assert compare.ratios(cost) == {"step": [2, 3], "pair": pytest.approx([8 / 3, 4])}
    assert compare.median_and_quartiles([5.0, 1.0, 2.0, 3.0, 4.0]) == "3.00 (2.00 to 4.00)"


def test_operations_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    # 36 positions of 4 channels read 27 values each; 10 outputs read 144: each a multiplication and an addition.
    assert operations(network, torch.zeros(1, 3, 8, 8)) == 2 * (36 * 4 * 27 + 10 * 144)


def test_attention_is_counted():
    query, key = torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 7, 8)
    # 2 heads, 5 queries, 7 keys, 8 channels: once for the affinity, once for the sum it weights.
    assert operations(F.scaled_dot_product_attention, query, key, key) == 2 * (2 * 2 * 5 * 7 * 8)
