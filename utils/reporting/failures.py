"""The page that shows where an evaluation fails: one file without external resources, for a phone, too."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from utils.evaluation.distances import overlap, shares
from utils.evaluation.failures import Searches, agreement, by_identity, confused_pairs, differences
from utils.reporting.report import filled, import_plots, table, text

if TYPE_CHECKING:  # a second, which only charts wait for
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).with_suffix(".html")
HEIGHT, WIDTH = 128, 64   # of an embedded image, in pixels
QUALITY = 80              # of its JPEG
WORST = 15                # people in the table
CHART = 4.5               # width of a chart in inches: its letters can be read on a phone


@dataclass(frozen=True)
class Run:
    """What the page shows of a network.

    name        of its method and run
    searches    of `search_all`
    distances   of `pair_distances`, None where its embeddings have none
    """

    name: str
    searches: Searches
    distances: tuple[dict, dict] | None


def failures_page(
    runs: Sequence[Run], identities: Sequence[int], cameras: Sequence[int], infrared: Sequence[bool],
    image: Callable[[int], Image.Image], *, title: str, setting: str, notes: Sequence[str], pairs: int,
) -> str:
    """The page of one network, or of two on the same queries; its sections are of the first one.

    identities, cameras, infrared   (N,) of the records
    image                           the image of a row
    setting                         protocol, weighting, re-ranking: what the figures are of
    pairs                           of people to show, and of queries in which two networks differ
    """
    shown = Images(image, identities, cameras, infrared)
    first = runs[0].searches
    headline = "; ".join(
        f"{run.name}: Rank-1 {100 * run.searches.hit.mean():.2f}, mAP {100 * run.searches.ap.mean():.2f}"
        for run in runs
    )
    sections = [
        section("Who is taken for whom", confused(first, identities, shown, pairs),
                "Pairs of people of whom one came first in a search for the other. A search is a query in one of the "
                "protocol's galleries. The example is the search in which the right person came latest."),
        section("By person", people(runs, identities),
                "How often each person came first in the searches for them; the table has the people that were found "
                "least."),
        section("By pair of cameras", camera_table(first.cameras),
                "Rank-1 in percent of a camera's queries (rows) where the images of one camera (columns) are the whole "
                "gallery; a dash where a query ignores that camera, or nobody is seen by both."),
        section("By number of gallery images", chart(runs, size_chart, "Rank-1 by number of gallery images"),
                "The mean Rank-1 in random galleries of so many of the protocol's images in which the person is: "
                "exact, not drawn. Where a query ignores some images, the largest galleries have all that it keeps."),
        section("Distances", distance_part(runs),
                "Cosine distances of queries to the images of the first gallery that they don't ignore, before any "
                "re-ranking. Each histogram has the area 1, though pairs of different people are far more."),
    ]
    if len(runs) > 1:
        same = agreement(*(run.searches for run in runs))
        sections.insert(0, section(
            "The two on the same queries", two_runs(runs, shown, pairs),
            f"The hits of A and B at rank 1 correlate by {same:.2f}: 1 where they fail in the same searches. Images "
            "are those of the first gallery that shows the query's person.",
        ))
    return filled(
        TEMPLATE, title=text(title), headline=f"{text(headline)}<br>{text(setting)}",
        notes="".join(f'<p class="note">{text(note)}</p>' for note in notes), sections="".join(sections),
    )


def section(heading: str, content: str, caption: str) -> str:
    said = f'<p class="quiet">{text(caption)}</p>' if caption else ""
    return f"<section><h2>{text(heading)}</h2>{said}{content}</section>\n"


@dataclass(frozen=True)
class Images:
    """Images of rows, as the page embeds them."""

    image: Callable[[int], Image.Image]
    identities: Sequence[int]
    cameras: Sequence[int]
    infrared: Sequence[bool]

    def figure(self, row: int, caption: str, frame: str = "") -> str:
        file = io.BytesIO()
        self.image(row).convert("RGB").resize((WIDTH, HEIGHT)).save(file, "JPEG", quality=QUALITY)
        source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        kind = "IR" if self.infrared[row] else "VIS"
        said = f"{caption}: person {self.identities[row]}, camera {self.cameras[row]}, {kind}"
        return (
            f'<figure><img class="{frame}" src="{source}" alt="{text(said)}" width="{WIDTH}" height="{HEIGHT}">'
            f"<figcaption>{text(said)}</figcaption></figure>"
        )

    def found(self, row: int, query: int, caption: str) -> str:
        right = self.identities[row] == self.identities[query]
        return self.figure(row, f"{caption}, {'right' if right else 'wrong'}", "right" if right else "wrong")


def card(heading: str, figures: Sequence[str]) -> str:
    return f'<div class="search"><p>{text(heading)}</p><div class="images">{"".join(figures)}</div></div>'


def cards(found: Sequence[str]) -> str:
    return f'<div class="searches">{"".join(found)}</div>'


def confused(searches: Searches, identities: Sequence[int], shown: Images, number: int) -> str:
    found = []
    for pair in confused_pairs(searches, identities, number):
        i, (a, b) = pair["example"], pair["people"]
        query = searches.query[i]
        found.append(card(f"{a} and {b}: {pair['wrong']} of {pair['searches']} searches", [
            shown.figure(query, "query"), shown.found(searches.first[i], query, "first"),
            shown.found(searches.right[i], query, f"place {searches.place[i]}"),
        ]))
    return cards(found) if found else "<p>Every search had the right person first.</p>"


def people(runs: Sequence[Run], identities: Sequence[int]) -> str:
    found = by_identity(runs[0].searches, identities)
    others = {p["identity"]: p for p in by_identity(runs[1].searches, identities)} if len(runs) > 1 else {}
    header = ["person", "searches", "Rank-1", "mAP", "most often taken for"] + ["Rank-1 of B"] * bool(others)
    lines = [
        [p["identity"], p["searches"], f"{100 * p['rank1']:.1f}", f"{100 * p['mAP']:.1f}",
         "-" if p["taken_for"] is None else p["taken_for"],
         *([f"{100 * others[p['identity']]['rank1']:.1f}"] if others else [])]
        for p in found[:WORST]
    ]

    def draw(plots: ModuleType, panel: "Axes", run: Run, style: dict) -> None:
        ordered = sorted(p["rank1"] for p in by_identity(run.searches, identities))
        panel.plot(range(1, len(ordered) + 1), 100 * np.array(ordered), label=run.name, **style)
        panel.set(xlabel="people, the one found least first", ylabel="Rank-1, %", ylim=(-2, 102))

    return chart(runs, draw, "Rank-1 of each person") + f'<div class="scroll">{table(lines, header)}</div>'


def camera_table(cameras: dict[tuple[int, int], tuple[int, int]]) -> str:
    by, of = (sorted({pair[side] for pair in cameras}) for side in (0, 1))
    head = "".join(f"<th>gallery {camera}</th>" for camera in of)
    rows = ""
    for own in by:
        cells = ""
        for other in of:
            searches, hits = cameras.get((own, other), (0, 0))
            share = hits / searches if searches else 0.0
            shade = f' style="background: rgb(213 94 0 / {0.6 * (1 - share):.2f})"' if searches else ""
            cells += f"<td{shade}>{100 * share:.1f}</td>" if searches else "<td>-</td>"
        rows += f"<tr><th>query {own}</th>{cells}</tr>"
    head = f"<thead><tr><th>camera</th>{head}</tr></thead>"
    return f'<div class="scroll cameras"><table>{head}<tbody>{rows}</tbody></table></div>'


def chart(runs: Sequence[Run], draw: Callable, alt: str) -> str:
    """A chart with a line for each run.

    draw   (module of plots, panel, run, style) draws it
    """
    plots = import_plots()
    figure, (panel,) = plots.panels([2.6])
    figure.set_size_inches(CHART, 2.6 + 0.25 * len(runs))
    for run, style in zip(runs, plots.styles(len(runs))):
        draw(plots, panel, run, style)
    if len(runs) > 1:
        figure.legend(fontsize=8, loc="outside lower center", frameon=False)
    return picture(plots.png(figure), alt)


def picture(png: bytes, alt: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img class="chart" src="{source}" alt="{text(alt)}">'


def size_chart(plots: ModuleType, panel: "Axes", run: Run, style: dict) -> None:
    panel.plot(run.searches.sizes, 100 * run.searches.rank1, label=run.name, **style)
    panel.set(xlabel="gallery images", ylabel="Rank-1, %", xscale="log", ylim=(-2, 102))
    panel.set_xticks(run.searches.sizes, map(str, run.searches.sizes), rotation=45)
    panel.set_xticks([], minor=True)


def draw_distances(plots: ModuleType, panel: "Axes", run: Run, style: dict) -> None:
    looks = (("same person", "-", plots.COLOURS[0]), ("different people", "--", plots.COLOURS[1]))
    for part, (label, dash, colour) in zip(run.distances or (), looks):
        if part["number"]:
            share = 100 * shares(part).numpy().reshape(-1, 5).sum(axis=1)  # bars of five counted bins
            last = int(np.flatnonzero(share)[-1]) + 1
            edges = 5 * 0.005 * np.arange(last + 1)
            panel.stairs(share[:last], edges, fill=True, color=colour, alpha=0.25)
            panel.stairs(share[:last], edges, color=colour, linestyle=dash, label=label)
    panel.legend(fontsize=8)
    panel.set(xlabel="cosine distance", ylabel="% of pairs", title=run.name)


def distance_part(runs: Sequence[Run]) -> str:
    content = ""
    for run in runs:
        distances = run.distances
        if distances is None:
            content += f"<p>{text(run.name)}: its embeddings have no cosine distance.</p>"
            continue
        shared = overlap(*distances)
        content += chart([run], draw_distances, f"Distances of {run.name}")
        means = " and ".join(
            f"{part['mean']:.3f} ({part['number']:,} pairs)" if part["number"] else "none" for part in distances
        )
        said = "" if shared is None else f"; the histograms share {100 * shared:.0f} % of their area"
        content += f'<p class="quiet">{text(f"Mean of the same person and of others: {means}{said}.")}</p>'
    return content


def two_runs(runs: Sequence[Run], shown: Images, number: int) -> str:
    a, b = (run.searches for run in runs)
    share, rows, gain = differences(a, b)
    cells = [[words, f"{100 * share[key]:.2f}"] for key, words in (
        ("both", "both right"), ("a", "A alone right"), ("b", "B alone right"), ("neither", "neither right"),
    )]
    content = f'<div class="scroll two">{table(cells, ["first image", "% of searches"])}</div>'

    def draw(plots: ModuleType, panel: "Axes", run: Run, style: dict) -> None:
        panel.hist(100 * gain, bins=np.linspace(-100, 100, 41).tolist(), color=style["color"], alpha=0.7)
        panel.set(xlabel="average precision of B less that of A, points", ylabel="queries", yscale="symlog")

    content += chart(runs[:1], draw, "Differences of average precision")
    order, half = np.argsort(gain, kind="stable"), (number + 1) // 2
    for words, chosen in (
        ("Where B gains most", order[::-1][:half]), ("Where B loses most", order[:half]),
    ):
        found = []
        for i in chosen:
            if (gain[i] > 0) != (words == "Where B gains most") or not gain[i]:
                continue
            place = np.flatnonzero(a.query == rows[i])[0]  # in the first gallery that has the query's person
            found.append(card(f"average precision {100 * gain[i]:+.1f}", [
                shown.figure(rows[i], "query"), shown.found(a.first[place], rows[i], "A's first"),
                shown.found(b.first[place], rows[i], "B's first"),
            ]))
        content += f"<h3>{words}</h3>" + (cards(found) if found else "<p>Nowhere.</p>")
    return content
