"""Figures -> pictures: training curves, CMC, histograms of distances, accuracy beside cost.

Figures are drawn without pyplot, whose state is global. Colours are those of Okabe and Ito, which the colour-blind can
tell apart; line styles and markers say the same again.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from utils.reporting.drawing import plain_matplotlib

matplotlib = plain_matplotlib()

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from utils.evaluation.distances import shares
from utils.evaluation.evaluator import FIGURES
from utils.reporting.results import protocol_of, rerankings

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = "osD^vPX*"
NO_CURVE = ("epoch", "images_per_second", "waiting", "lr")  # of a line of metrics.jsonl: not a loss
WIDTH = 7.0          # of a picture, in inches of DPI pixels
DPI = 125
BARS = 80            # of a histogram at most


def png(figure: Figure) -> bytes:
    """The content of a PNG file; the same for the same figures."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def svg(figure: Figure) -> bytes:
    """The content of an SVG file, text drawn as paths; the same for the same figures."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "figure"}):  # else its ids are random
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def panels(heights: Sequence[float], title: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of panels below one another, which share their x axis; `heights` in inches."""
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, [*axes]


def styles(number: int) -> list[dict]:
    """Colours and markers for that many lines, no two alike; the lines are dashed from the second round of colours."""
    dashes = itertools.chain.from_iterable([style] * len(COLOURS) for style in itertools.cycle(("-", "--", ":")))
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), dashes)
    return [
        {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4}
        for colour, marker, dash in itertools.islice(looks, number)
    ]


def plain_ticks() -> dict:
    """What an axis with a logarithmic scale is set to, for ticks such as 0.5, 1 and 2."""
    return {"major_locator": LogLocator(subs=(1, 2, 5)), "major_formatter": "{x:g}", "minor_locator": NullLocator()}


def training_curves(lines: Sequence[dict]) -> Figure:
    """Loss terms (those of weight 0 are left out), learning rate and, where there was one, validation, by epoch.

    lines   of metrics.jsonl, one at least
    """
    names = [*dict.fromkeys(name for line in lines for name in line)]
    validation = [name for name in names if name.startswith("validation_")]
    losses = [name for name in names if name not in (*NO_CURVE, *validation) and any(line.get(name) for line in lines)]
    figure, axes = panels([3.2, 1.8] + [2.2] * bool(validation))

    def draw(panel: Axes, name: str, factor: float = 1.0, **style: Any) -> None:
        points = [(line["epoch"], factor * line[name]) for line in lines if name in line]
        panel.plot(*zip(*points), **style, markevery=max(1, len(points) // 20))

    for name, style in zip(losses, styles(len(losses))):
        draw(axes[0], name, **style, label=name)
    axes[0].set_ylabel("loss, mean over the epoch\n(weights applied)")
    draw(axes[1], "lr", color="black", drawstyle="steps-mid", marker="o", markersize=3)
    axes[1].set_ylabel("learning rate\n(neck, classifier)")
    for panel, keys in ((axes[0], losses), (axes[1], ["lr"])):
        if all(line.get(key, 0) >= 0 for line in lines for key in keys):
            panel.set_yscale("log", nonpositive="mask")
            panel.yaxis.set(**plain_ticks())
    for name, style in zip(validation, styles(len(validation))):
        best = max((line for line in lines if name in line), key=lambda line: line[name])
        label = name.removeprefix("validation_")
        text = f"{FIGURES.get(label, label)}: best {100 * best[name]:.1f} % in epoch {best['epoch']}"
        draw(axes[2], name, factor=100, **style, label=text)
        axes[2].set_ylabel("validation, %")
    for panel in (axes[0], *axes[2:]):  # above the panel, where it hides no curve
        panel.legend(fontsize=9, ncols=7, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, columnspacing=1)
    axes[-1].set_xlabel("epoch, from 0")
    cast(MaxNLocator, axes[-1].xaxis.get_major_locator()).set_params(integer=True, min_n_ticks=1)
    return figure


def cmc_curves(results: Sequence[dict]) -> Figure:
    """A line for each protocol: mean over its trials; shaded, their standard deviation on either side.

    results   of `evaluate_protocol`, of one weighting
    """
    flip, by = "with" if results[0]["flip"] else "without", rerankings(results)
    rerank = "without re-ranking" if by == "no" else f"re-ranked by {by}"
    weighting = results[0]["weighting"]
    height = 4.1 + 0.2 * len(results)  # the legend's lines below the panel, where they hide no curve
    figure, (panel,) = panels([height], f"weighting {weighting}, {flip} mirrored images, {rerank}")
    lowest = 100.0
    for result, style in zip(results, styles(len(results))):
        curves = 100 * np.array([trial["cmc"] for trial in result["trials"]])  # (trials, ranks)
        mean, spread, ranks = curves.mean(axis=0), curves.std(axis=0), np.arange(1, curves.shape[1] + 1)
        several = len(curves) > 1
        rank1 = f"{mean[0]:.1f}" + (f" ± {spread[0]:.1f}" if several else "")
        panel.plot(ranks, mean, **style, label=f"{protocol_of(result)}: Rank-1 {rank1} %")
        if several:
            panel.fill_between(ranks, mean - spread, mean + spread, color=style["color"], alpha=0.2, linewidth=0)
        lowest = min(lowest, mean[0] - spread[0])
    panel.set(
        xlabel="k, place in the ranking", ylabel="queries whose person is among the first k, %",
        xticks=[1, *range(5, len(ranks) + 1, 5)], ylim=(max(0, 10 * (lowest // 10)), 101),
    )
    figure.legend(fontsize=9, loc="outside lower center", frameon=False)
    return figure


def distance_histograms(distances: dict) -> Figure:
    """A panel for each pair of modalities: the distances within identities and between them.

    distances   of `distance_counts`
    """
    parts = [part for pair in distances["pairs"].values() for part in (pair["within"], pair["between"])]
    first = min(part["first_bin"] for part in parts if part["number"])
    last = max(part["first_bin"] + len(part["counts"]) for part in parts if part["number"])
    each = -(-(last - first) // BARS)  # counted bins in a drawn one
    starts = np.arange(first // each * each, last, each)
    edges = np.append(starts, starts[-1] + each) * distances["bin_width"]
    gap = distances["modality_gap"]
    title = "" if gap is None else f"modality gap {gap:.3f}: same person's mean in VIS-IR less that of VIS-VIS, IR-IR"
    figure, axes = panels([2.1] * 3, title)
    looks = (("within", "same person", "-", COLOURS[0]), ("between", "different people", "--", COLOURS[1]))
    for panel, (name, pair) in zip(axes, distances["pairs"].items()):
        for kind, text, dash, colour in looks:
            part = pair[kind]
            if not part["number"]:
                continue
            bars = 100 * np.add.reduceat(shares(part).numpy(), starts)
            label = f"{text}: mean {part['mean']:.3f}, {part['number']:,} pairs"
            panel.stairs(bars, edges, fill=True, color=colour, alpha=0.25)
            panel.stairs(bars, edges, color=colour, linestyle=dash, linewidth=1.3, label=label)
            panel.axvline(part["mean"], color=colour, linestyle=dash, linewidth=1)
        overlap = f", overlap {100 * pair['overlap']:.0f} %" if pair["overlap"] is not None else ""
        panel.set_title(f"{name}{overlap}", fontsize=10, loc="left")
        panel.set_ylabel(f"% of pairs\nper {each * distances['bin_width']:.3g}")
        panel.set_ylim(0, 1.35 * panel.get_ylim()[1])  # the legend above the bars
        if pair["within"]["number"] or pair["between"]["number"]:  # none where all images are of one modality
            panel.legend(fontsize=8)
    axes[-1].set_xlabel(f"cosine distance of two images' embeddings (weighting {distances['weighting']})")
    return figure


def heat_maps(
    panels: Sequence[tuple[str, np.ndarray]], rows: Sequence[str], columns: Sequence[str], title: str = ""
) -> Figure:
    """Grids beside each other on one scale from 0, each with its numbers.

    panels   (heading, values (R, C)); nan leaves a cell blank
    """
    top = max(1.0, *(float(np.nanmax(values)) for _, values in panels))
    width, height = 1.6 + len(panels) * (0.6 + 0.5 * len(columns)), 1.1 + 0.24 * len(rows)
    figure = Figure(figsize=(max(WIDTH, width), height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (heading, values) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels):
        axes.imshow(values, cmap="viridis", vmin=0, vmax=top, aspect="auto")
        axes.set_title(heading, fontsize=9)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > 0.6 * top else "white"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)
    return figure


def accuracy_and_cost(
    points: Sequence[tuple[str, float, Sequence[float]]], accuracy: str, cost: str, note: str
) -> Figure:
    """A point for each method, its name beside it; the bar is the standard deviation (of the sample) of its values.

    Methods of about one cost stand side by side, else their bars would hide one another.

    points           (name, cost above 0, its values, one at least)
    accuracy, cost   what the axes show
    note             stands below
    """
    figure = Figure(figsize=(WIDTH, 5.0), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    costs = np.array([at for _, at, _ in points])
    if costs.max() > 3 * costs.min():
        axes.set_xscale("log")
        axes.xaxis.set(**plain_ticks())
        costs = np.exp(side_by_side(np.log(costs)))
    else:
        costs = side_by_side(costs)
    middles = [float(np.mean(values)) for _, _, values in points]
    spreads = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for _, _, values in points]
    axes.errorbar(costs, middles, spreads, fmt="o", color=COLOURS[0], markersize=5, elinewidth=1.2, capsize=3)
    axes.margins(0.12)
    axes.set(xlabel=cost, ylabel=accuracy)
    figure.supxlabel(textwrap.fill(note, 118), x=0.01, ha="left", fontsize=8)
    name_points(axes, [name for name, _, _ in points], costs, middles, spreads)
    return figure


def side_by_side(x: np.ndarray) -> np.ndarray:
    """Moves apart, around their place, those of the places that are hardly a hundredth of their whole span apart.

    x, returns   (N,)
    """
    order, gap, moved = np.argsort(x, kind="stable"), 0.015 * np.ptp(x), x.copy()
    for group in np.split(order, 1 + np.flatnonzero(np.diff(x[order]) > gap)):
        moved[group] += gap * (np.arange(len(group)) - (len(group) - 1) / 2)
    return moved


def name_points(
    axes: Axes, names: Sequence[str], x: np.ndarray, y: Sequence[float], spreads: Sequence[float]
) -> None:
    """Write each name at the nearest place around its point where it hides no point, bar or other name.

    Where there is no such place it hides as few as it can. The axes' limits and labels must be set before.
    """
    figure = cast(Figure, axes.figure)
    figure.draw_without_rendering()  # what is where is known after that,
    figure.set_layout_engine("none")  # and stays there
    pixels, to_pixels = figure.dpi / 72, axes.transData.transform  # in a point of text
    taken = [
        Bbox([to_pixels((at, middle - spread)) - 4 * pixels, to_pixels((at, middle + spread)) + 4 * pixels])
        for at, middle, spread in zip(x, y, spreads)
    ]
    steps = [
        away * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))]).round(3)
        for away in range(8, 80, 8) for angle in (0, 180, 30, -30, 150, -150, 60, -60, 90, -90)
    ]

    def hidden(box: Bbox) -> int:
        outside = not all(axes.bbox.contains(*corner) for corner in box.get_points())
        return box.count_overlaps(taken) + outside

    for name, point in zip(names, zip(x, y)):
        text = axes.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        )
        half = np.array(Text.get_window_extent(text).size) / 2
        offsets = [pixels * step + np.sign(step) * half for step in steps]
        boxes = [Bbox(to_pixels(point) + offset + [-half, half]) for offset in offsets]
        best = min(range(len(boxes)), key=lambda i: hidden(boxes[i]))  # the first, which is the nearest, of the best
        text.xyann = offsets[best] / pixels
        taken.append(boxes[best])
