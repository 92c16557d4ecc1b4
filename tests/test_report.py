"""A run explains itself: what the pictures count and show, and a page that any browser opens anywhere."""

import base64
import io
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import is_imported
from programs import run as run_program
from programs import run_apart
from thin import SHORT

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import report as script

import utils.reporting
from utils.evaluation.distances import BIN_WIDTH, distance_counts, modality_gap, shares
from utils.reporting import plots
from utils.reporting.report import (
    ReportError,
    import_plots,
    only_a_warning,
    training_folder,
    write_curves,
    write_report,
)
from utils.training.checkpoint import sha256
from utils.training.run import LOG

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


# Distances


def directions(*degrees):
    """Rows of different lengths in these directions, (N, 2)."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1) * torch.arange(1.0, len(degrees) + 1)[:, None]


def test_distances_of_two_people_by_day_and_night():
    features = directions(0.0, 60.0, 90.0, 90.0, 180.0)  # person 7: two VIS, one IR; person 8: one VIS, one IR
    found = distance_counts(features, [7, 7, 8, 7, 8], [False, False, False, True, True], weighting="equal")
    pairs = found["pairs"]
    assert [pairs[name]["within"]["number"] for name in ("VIS-VIS", "IR-IR", "VIS-IR")] == [1, 0, 3]
    assert [pairs[name]["between"]["number"] for name in ("VIS-VIS", "IR-IR", "VIS-IR")] == [2, 1, 3]
    assert pairs["VIS-VIS"]["within"]["mean"] == pytest.approx(0.5, abs=1e-6)          # 60 degrees
    assert pairs["VIS-VIS"]["within"]["counts"] == [1]
    assert pairs["VIS-VIS"]["within"]["first_bin"] * BIN_WIDTH == pytest.approx(0.5, abs=BIN_WIDTH)
    cosines = 0 + 3 ** 0.5 / 2 + 0  # 7: 90 and 30 degrees, 8: 90
    assert pairs["VIS-IR"]["within"]["mean"] == pytest.approx(1 - cosines / 3, abs=1e-6)
    assert pairs["IR-IR"]["between"]["mean"] == pytest.approx(1, abs=1e-6)
    assert pairs["IR-IR"]["within"]["mean"] is None and pairs["IR-IR"]["overlap"] is None
    assert found["modality_gap"] is None  # nobody has two IR images
    assert json.loads(json.dumps(found)) == found


@given(number=st.integers(2, 40), block=st.integers(1, 50), seed=st.integers(0, 9))
def test_every_pair_counts_once_whatever_the_block(number, block, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(number, 3, generator=generator)
    identities, infrared = torch.randint(0, 4, (number,), generator=generator), torch.arange(number) % 2 == 0
    scale = torch.tensor([2.0, 0.0, 1.0])
    found = distance_counts(features, identities, infrared, weighting="neck", scale=scale, block=block)
    unit = torch.nn.functional.normalize((features * scale).double(), dim=1)
    distance = 1 - unit @ unit.T
    total = 0
    for name, kind in (("VIS-VIS", 0), ("VIS-IR", 1), ("IR-IR", 2)):
        for part, same in (("within", True), ("between", False)):
            wanted = (infrared[:, None].int() + infrared == kind) & ((identities[:, None] == identities) == same)
            wanted = distance[wanted.triu(diagonal=1)]
            of_part = found["pairs"][name][part]
            assert of_part["number"] == sum(of_part["counts"]) == len(wanted)
            total += len(wanted)
            if len(wanted):
                assert of_part["mean"] == pytest.approx(wanted.mean().item(), abs=1e-5)
                first = of_part["first_bin"]
                assert first * BIN_WIDTH == pytest.approx(wanted.min().item(), abs=1.01 * BIN_WIDTH)
                end = (first + len(of_part["counts"])) * BIN_WIDTH
                assert end == pytest.approx(wanted.max().item(), abs=1.01 * BIN_WIDTH)
                assert shares(of_part).sum() == pytest.approx(1)
    assert total == number * (number - 1) // 2


def test_overlap_and_gap_at_their_extremes():
    identities, infrared = [1, 1, 1, 1, 2, 2, 2, 2], [False, False, True, True] * 2
    apart = distance_counts(directions(*[0.0] * 4, *[90.0] * 4), identities, infrared, weighting="equal")
    assert [pair["overlap"] for pair in apart["pairs"].values()] == [0, 0, 0] and apart["modality_gap"] == 0
    same = distance_counts(torch.ones(8, 2), identities, infrared, weighting="equal")
    assert [pair["overlap"] for pair in same["pairs"].values()] == [1, 1, 1]
    by_modality = distance_counts(directions(*[0.0, 0.0, 90.0, 90.0] * 2), identities, infrared, weighting="equal")
    assert by_modality["modality_gap"] == pytest.approx(1, abs=1e-6)  # a person is at 0 degrees by day, at 90 by night
    pairs = {name: {"within": {"mean": mean}} for name, mean in (("VIS-VIS", 0.2), ("IR-IR", 0.4), ("VIS-IR", 0.7))}
    assert modality_gap(pairs) == pytest.approx(0.4)


# Pictures


def epochs(number, validated=()):
    lines = []
    for epoch in range(number):
        losses = {"id": 5.0 / (epoch + 1), "triplet": 0.5, "dcl": 0.1 * (epoch < 2), "orthogonal": 0.0}
        lines.append({"epoch": epoch, **losses, "total": sum(losses.values()), "images_per_second": 9.0, "lr": 0.1})
        if epoch in validated:
            lines[-1] |= {"validation_rank1": 0.4, "validation_mAP": 0.3 + epoch / 100}
    return lines


def result(protocol="sysu/all/single-shot/random", rank1=(0.5, 0.7), weighting="equal", **changes):
    """As `evaluate_protocol` gives it; rank-k grows linearly to 1."""
    trials = []
    for first in rank1:
        cmc = np.linspace(first, 1, 20).tolist()
        trials.append({f"rank{k}": cmc[k - 1] for k in (1, 5, 10, 20)} | {"mAP": 0.4, "mINP": 0.3, "valid_queries": 7})
        trials[-1]["cmc"] = cmc
    figures = {key: [trial[key] for trial in trials] for key in trials[0] if key not in ("valid_queries", "cmc")}
    mean, std = ({key: float(f(values)) for key, values in figures.items()} for f in (np.mean, np.std))
    return {"protocol": protocol, "flip": True, "weighting": weighting, "rerank": False, "trials": trials, "mean": mean,
            "std": std} | changes


def some_distances(images=60):
    identities, infrared = torch.arange(images) % 5, torch.arange(images) % 3 == 0
    return distance_counts(torch.rand(images, 8), identities, infrared, weighting="equal")


def check_picture(figure):
    """Axes have names, no two lines of a panel look alike in colour and marker, and the file is small."""
    for panel in figure.axes:
        assert panel.get_ylabel()
        named = [line for line in panel.get_lines() if not line.get_label().startswith("_")]
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in named}) == len(named)
    assert figure.axes[-1].get_xlabel()
    content = plots.png(figure)
    assert len(content) <= 200_000 and Image.open(io.BytesIO(content)).width == plots.WIDTH * plots.DPI


def labels(panel):
    """Of a panel's own legend, or of its figure's."""
    legend, = panel.figure.legends or [panel.get_legend()]
    return [entry.get_text() for entry in legend.get_texts()]


def test_curves_show_what_was_trained_and_validated():
    figure = plots.training_curves(epochs(6, validated=(1, 3, 5)))
    check_picture(figure)
    losses, _, validation = figure.axes
    for panel in (losses, validation):  # the legend hides no curve
        assert panel.get_legend().get_window_extent().y0 >= panel.get_window_extent().y1
    assert labels(losses) == ["id", "triplet", "dcl", "total"]  # orthogonality had no weight
    assert losses.get_lines()[0].get_ydata().tolist() == [5.0 / (epoch + 1) for epoch in range(6)]
    assert labels(validation) == ["Rank-1: best 40.0 % in epoch 1", "mAP: best 35.0 % in epoch 5"]
    assert [*validation.get_lines()[1].get_xdata()] == [1, 3, 5]
    assert len(plots.training_curves(epochs(1)).axes) == 2
    check_picture(plots.training_curves(epochs(1)))


def test_curves_stay_readable_where_a_loss_is_negative_or_broke():
    lines = epochs(3)
    lines[1]["id"], lines[2]["total"] = -1.0, float("nan")
    check_picture(plots.training_curves(lines))


def test_cmc_is_the_mean_over_trials_with_their_spread():
    figure = plots.cmc_curves([result(), result("sysu/indoor/single-shot/random", rank1=(0.9,))])
    check_picture(figure)
    panel, = figure.axes
    several, _ = panel.get_lines()
    assert several.get_ydata()[0] == pytest.approx(60) and several.get_ydata()[-1] == pytest.approx(100)
    assert "60.0 ± 10.0 %" in labels(panel)[0] and "90.0 %" in labels(panel)[1]
    shaded, = panel.collections  # one trial has no spread
    assert shaded.get_paths()[0].vertices[:, 1].min() == pytest.approx(50)


@pytest.mark.parametrize("protocols", [2, 8])
def test_the_legend_of_the_cmc_hides_no_curve(protocols):
    figure = plots.cmc_curves([result(f"data/{number}", rank1=(0.01, 0.03)) for number in range(protocols)])
    check_picture(figure)
    (panel,), (legend,) = figure.axes, figure.legends
    assert legend.get_window_extent().y1 <= panel.get_window_extent().y0
    assert panel.get_window_extent().height > 2 * plots.DPI


def test_histograms_hold_all_pairs():
    distances = some_distances()
    figure = plots.distance_histograms(distances)
    check_picture(figure)
    for panel, pair in zip(figure.axes, distances["pairs"].values()):
        assert f"{pair['within']['number']:,} pairs" in labels(panel)[0]
        drawn = [patch.get_data().values.sum() for patch in panel.patches]
        assert drawn == pytest.approx([100] * 4)


# The page


class Page(HTMLParser):
    """What a page shows and refers to."""

    def __init__(self, content):
        super().__init__()
        self.words, self.sources, self.tags = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.words.append(data)


def results_file(folder, **changes):
    saved = {
        "data": {"name": "synthetic", "fingerprint": "f" * 64},
        "checkpoint": {"path": str(folder / "last.pth"), "epochs": 3},
        "config": {"OUTPUT": "runs/<b>&", "MODEL": {"NAME": "agw"}, "SOLVER": {"EPOCHS": 3}}, "parameters": 5,
        "data_summary": "split <train>", "results": [result(), result(weighting="neck")], "distances": some_distances(),
    } | changes
    path = folder / "results.json"
    path.write_text(json.dumps(saved))
    return path


def test_the_page_holds_everything_and_refers_to_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs(3)))
    path = results_file(tmp_path)
    written = write_report(path, json.loads(path.read_text()), "CMFN")
    assert [file.name for file in written] == ["cmc.png", "distances.png", "report.html"]
    content = (tmp_path / "report.html").read_text()
    page = Page(content)
    text = " ".join(page.words)
    for wanted in ("60.00 ± 10.00", "sysu/all/single-shot/random", "runs/<b>&", "split <train>", "SOLVER.EPOCHS",
                   "embedded data set", "f" * 64):
        assert wanted in text
    assert "b" not in page.tags and page.tags.count("img") == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "url(" not in content and "@import" not in content and "<script" not in content
    shown = [base64.b64decode(source.split(",")[1]) for source in page.sources]
    assert shown[:2] == [(tmp_path / name).read_bytes() for name in ("cmc.png", "distances.png")]


def test_curves_are_those_of_the_checkpoint_that_was_tested(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(epochs(1)[0]) + "\n")
    (tmp_path / "last.pth").write_bytes(b"weights")
    gone = {"path": "runs/gone/last.pth", "epochs": 3, "sha256": sha256(tmp_path / "last.pth")}
    results = tmp_path / "results.json"
    assert training_folder(results, gone) == tmp_path  # the run was moved here
    (tmp_path / "last.pth").write_bytes(b"others")
    assert training_folder(results, gone) is None
    assert training_folder(results, gone | {"path": str(tmp_path / "best.pth")}) == tmp_path


def test_sheets_drawn_of_the_checkpoint_are_shown_and_older_ones_are_not(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(epochs(1)[0]) + "\n")
    (tmp_path / "last.pth").write_bytes(b"weights")
    (tmp_path / "pictures").mkdir()
    for name in ("ranking.jpg", "attention.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / "pictures" / name)
    os.utime(tmp_path / "pictures" / "attention.png", (0, 0))  # of a training before
    path = results_file(tmp_path)
    write_report(path, json.loads(path.read_text()), "CMFN")
    page = Page((tmp_path / "report.html").read_text())
    sheet = base64.b64encode((tmp_path / "pictures" / "ranking.jpg").read_bytes()).decode()
    assert f"data:image/jpeg;base64,{sheet}" in page.sources and page.tags.count("img") == 4
    text = " ".join(page.words)
    assert "Rankings" in text and text.count(f"python scripts/visualize.py {tmp_path}") == 1


def test_what_an_older_file_lacks_is_said(tmp_path):
    saved = json.loads(results_file(tmp_path).read_text())
    del saved["distances"], saved["data_summary"]
    for entry in saved["results"]:
        for trial in entry["trials"]:
            del trial["cmc"]
    assert [file.name for file in write_report(tmp_path / "results.json", saved, "CMFN")] == ["report.html"]
    text = " ".join(Page((tmp_path / "report.html").read_text()).words)
    assert text.count("test.py without --reuse adds it") == 2 and "without a summary of the data" in text


def test_what_must_be_known_stands_above_the_figures(tmp_path):
    def notes_of(**changes):
        write_report(results_file(tmp_path, distances=None, **changes), json.loads(path.read_text()), "CMFN")
        return re.findall(r'<p class="note">(.*?)</p>', (tmp_path / "report.html").read_text())

    path = results_file(tmp_path)
    known = notes_of()
    assert len(known) == 1 and "embedded data set" in known[0]
    assert notes_of(checkpoint={"path": "runs/a/last.pth", "epochs": 2})[1:] == [
        "The training of runs/a/last.pth is unfinished: 2 of 3 epochs."
    ]
    assert notes_of(checkpoint={"path": "runs/a/best.pth", "epochs": 2}) == known  # the best epoch needn't be the last
    assert notes_of(data_summary="train 3\nwarning: this copy differs: 3, not 4")[1:] == [
        "warning: this copy differs: 3, not 4"
    ]


def test_the_page_in_a_browser(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"there is none of {', '.join(BROWSERS)}")
    path = results_file(tmp_path)
    write_report(path, json.loads(path.read_text()), "CMFN")
    picture = tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--window-size=1200,2400", f"--screenshot={picture}", "--dump-dom", (tmp_path / "report.html").as_uri()]
    done = run_apart(*command, timeout=120)
    table = re.search(r'<div class="scroll results">.*?</table>', done.stdout, re.DOTALL)
    assert table and "60.00 ± 10.00" in table[0], done.stderr
    shown = np.asarray(Image.open(picture).convert("L"))
    assert shown.shape[0] >= 1000 and shown.std() > 10  # neither empty nor one colour


# In a run


def test_training_and_test_leave_the_pictures_and_a_report(shared_data, tmp_path, thin):
    run = tmp_path / "run"
    options = ["DATA.ROOT", shared_data, "DATA.HEIGHT", "32", "DATA.WIDTH", "16", "DATA.WORKERS", "0", "DEVICE", "cpu",
               "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "2", "DATA.ERASING_AREA", "[0.1, 0.3]", "OUTPUT", run,
               *SHORT]

    run_program("train.py", "--config", "configs/quickstart_cmfn.yaml", *options)
    assert Image.open(run / "curves.png").format == "PNG"
    done = run_program("test.py", "--checkpoint", run, "SOLVER.EPOCHS", "2")
    assert f"The training of {run / 'last.pth'} is unfinished: 1 of 2 epochs." in done.stdout
    assert f"report:  {run / 'report.html'}" in done.stdout
    saved = json.loads((run / "results.json").read_text())
    assert all(len(trial["cmc"]) == 20 for entry in saved["results"] for trial in entry["trials"])
    number = 3 * 6  # people, cameras
    pairs = saved["distances"]["pairs"].values()
    counted = sum(pair[part]["number"] for pair in pairs for part in ("within", "between"))
    assert counted == number * (number - 1) // 2
    rank1 = f"{100 * saved['results'][0]['mean']['rank1']:.2f}"
    assert rank1 in " ".join(Page((run / "report.html").read_text()).words)

    pictures = {name: (run / name).read_bytes() for name in ("curves.png", "cmc.png", "distances.png", "report.html")}
    for name in pictures:
        (run / name).unlink()
    run_program("scripts/report.py", run)
    assert {name: (run / name).read_bytes() for name in pictures} == pictures


def test_a_picture_that_fails_costs_nothing_but_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(epochs(1)[0]) + "\n")
    (tmp_path / "curves.png").mkdir()  # in the way of the picture
    monkeypatch.setattr(LOG, "propagate", True)
    with only_a_warning("curves.png was not drawn"):
        write_curves(tmp_path)
    assert "curves.png was not drawn" in caplog.text and "cannot be written" in caplog.text
    assert write_curves(tmp_path / "nothing") is None


def test_matplotlib_is_not_imported_before_something_is_drawn():
    programs = ["train.py", "test.py"]
    assert is_imported("torch", by=programs) and not is_imported("matplotlib", by=programs)


def test_without_matplotlib_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "utils.reporting.plots", None)
    monkeypatch.delattr(utils.reporting, "plots")
    with pytest.raises(ReportError, match="pip install -r requirements.txt"):
        import_plots()


def test_the_script_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path)])
    with pytest.raises(ReportError, match="neither an epoch in metrics.jsonl nor a results.json"):
        script.main()
