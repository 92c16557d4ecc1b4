"""A run explained by its folder alone: curves.png of train.py; cmc.png, distances.png and report.html of test.py.

The page is one file without external resources. Pictures and page are drawn from metrics.jsonl and the results file.
"""

import base64
import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any

from common.words import how_many
from utils.evaluation.evaluator import FIGURES, table_rows
from utils.output import reason, write_atomically
from utils.training.checkpoint import sha256
from utils.training.run import LOG, Metrics

TEMPLATE = Path(__file__).with_suffix(".html")
STYLE = Path(__file__).with_name("page.css")  # of all pages
CMC = (
    "Share of the queries whose person is among the first k of the ranking (people or images, as the protocol counts): "
    "mean over the trials; shaded, their standard deviation on either side."
)
OLDER = "This results file is of an older version, without what this picture shows; test.py without --reuse adds it."
NO_PAIRS = f"{OLDER} Or its embeddings compare with those of the other modality alone, which has no such histogram."
ABSENT = {"CMC": OLDER, "Distances": NO_PAIRS, "Training": "No metrics.jsonl of this checkpoint's training was found."}
SHEETS = {  # of scripts/visualize.py, by their names in a run's folder
    "ranking": ("Rankings", "Queries, and the gallery images that each finds first."),
    "attention": ("Attention", "Where the network looks."),
}
ABSENT_OF_A_MEAN = {  # over several models, of scripts/average_splits.py
    "CMC": "Some of the averaged results are of an older version; test.py without --reuse adds what it shows.",
    "Distances": "A mean over several models has no one histogram of distances; each model's own report has its.",
    "Training": "A mean over several models has no one training; each model's own report has its.",
}


class ReportError(ValueError):
    """A picture or the page cannot be drawn or written; the message says why, and what to do."""


@contextmanager
def only_a_warning(lost: str) -> Iterator[None]:
    """Whatever goes wrong inside is logged and no more: pictures must never cost a training or its figures."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        LOG.warning("warning: %s: %s", lost, error)


def write_curves(folder: Path) -> Path | None:
    """Draw curves.png from a training's metrics.jsonl; None where that has no epoch yet.

    raises   ReportError
    """
    picture = curves_of(folder)
    return write(folder / "curves.png", picture) if picture else None


def write_report(file: Path, saved: dict, title: str) -> list[Path]:
    """Draw the pictures of a results file of test.py and the page beside it; returns the files written.

    Where the file isn't called results.json, their names begin with its name.

    saved    the file's content
    title    the method's
    raises   ReportError
    """
    plots, first, distances = import_plots(), of_first_weighting(saved["results"]), saved.get("distances")
    checkpoint = saved.get("checkpoint", {})
    training = training_folder(file, checkpoint)
    absent = ABSENT_OF_A_MEAN if isinstance(checkpoint, list) else ABSENT
    has_cmc = all("cmc" in trial for result in first for trial in result["trials"])
    cmc = plots.png(plots.cmc_curves(first)) if has_cmc else None
    histograms = plots.png(plots.distance_histograms(distances)) if distances else None
    page = page_of(file, saved, title, [
        figure("CMC", cmc, CMC, absent["CMC"]),
        figure("Distances", histograms, distances_caption(distances) if distances else "", absent["Distances"]),
        figure("Training", curves_of(training) if training else None, f"Every epoch of the training in {training}.",
               absent["Training"]),
        *sheets_of(training, checkpoint),
    ])
    prefix = "" if file.name == "results.json" else f"{file.stem}-"
    contents = {"cmc.png": cmc, "distances.png": histograms, "report.html": page}
    return [write(file.with_name(prefix + name), content) for name, content in contents.items() if content]


def import_plots() -> ModuleType:
    """The module that draws, with matplotlib; not imported before, for a training doesn't need it.

    raises   ReportError
    """
    try:
        from utils.reporting import plots
    except ModuleNotFoundError as error:
        raise ReportError(f"{error.name} is not installed: pip install -r requirements.txt") from None
    except Exception as error:  # noqa: BLE001 - whatever a broken installation or the user's settings of it lead to
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ReportError(
            f"matplotlib cannot be used here ({why}); look for a damaged matplotlibrc file, or install it anew: "
            "pip install --force-reinstall matplotlib"
        ) from None
    return plots


def curves_of(folder: Path) -> bytes | None:
    plots, lines = import_plots(), Metrics.read(folder)
    return plots.png(plots.training_curves(lines)) if lines else None


def sheets_of(folder: Path | None, checkpoint: Any) -> Iterator[str]:
    """Sections with the pictures that scripts/visualize.py has drawn of this checkpoint, or with how to draw them.

    folder   of the training; without one, there are none
    """
    if folder is None:
        return
    weights = folder / Path(checkpoint["path"]).name
    since = weights.stat().st_mtime if weights.exists() else float("inf")
    for name, (heading, caption) in SHEETS.items():
        drawn = [folder / "pictures" / f"{name}.{ending}" for ending in ("jpg", "png")]
        drawn = [file for file in drawn if file.exists() and file.stat().st_mtime >= since]
        yield figure(
            heading, drawn[0].read_bytes() if drawn else None, caption,
            f"python scripts/visualize.py {folder}, then python scripts/report.py {folder}, shows them here.",
        )


def write(path: Path, content: str | bytes) -> Path:
    try:
        write_atomically(path, content)
    except (OSError, ValueError) as error:
        why = reason(error, path.parent)
        raise ReportError(f"{path} cannot be written ({why}); make it writable, or free its disk") from None
    return path


def of_first_weighting(results: Sequence[dict]) -> list[dict]:
    """The network's reported weighting, unless TEST.WEIGHTINGS says otherwise."""
    return [result for result in results if result["weighting"] == results[0]["weighting"]]


def training_folder(file: Path, checkpoint: dict | list) -> Path | None:
    """The folder of a checkpoint's training: as the results name it or, where the run was moved, their own."""
    if isinstance(checkpoint, list) or "epochs" not in checkpoint:
        return None  # of other authors, of random weights, or a mean over several
    named = Path(checkpoint["path"])
    if (named.parent / "metrics.jsonl").exists():
        return named.parent
    moved = file.with_name(named.name)
    is_it = moved.is_file() and sha256(moved) == checkpoint.get("sha256")
    return file.parent if is_it and (file.parent / "metrics.jsonl").exists() else None


# The page


def page_of(file: Path, saved: dict, title: str, figures: Sequence[str]) -> str:
    number = len(FIGURES)
    header, *lines = ([row[0], *row[-number:], *row[1:-number]] for row in table_rows(saved["results"]))
    first = dict(zip(header, lines[0]))
    summary = saved.get("data_summary", "This results file is of an older version, without a summary of the data.")
    return filled(
        TEMPLATE,
        title=text(f"{title} on {saved['data']['name']}: {file.resolve().parent.name}"),
        headline=text(f"Rank-1 {first['Rank-1']}, mAP {first['mAP']} ({first['protocol']})"),
        notes="".join(f'<p class="note">{text(note)}</p>' for note in notes(saved)),
        results=table(lines, header),
        figures="".join(figures),
        summary=text(summary),
        made=table(origin(saved)),
        options=table(flat(saved.get("config", {}))),
    )


def filled(template: Path, **parts: str) -> str:
    """A page, by the parts that its template names."""
    return Template(template.read_text(encoding="utf-8")).substitute(parts, style=STYLE.read_text(encoding="utf-8"))


def notes(saved: dict) -> list[str]:
    """What must be known to read the figures."""
    checkpoint, solver = saved.get("checkpoint", {}), saved.get("config", {}).get("SOLVER", {})
    several, epochs = isinstance(checkpoint, list), solver.get("EPOCHS", 0)
    one_model = several and len({one.get("sha256", number) for number, one in enumerate(checkpoint)}) == 1
    known = {
        "These figures are of the embedded data set; they say nothing about a real one.":
            saved["data"]["name"] == "synthetic",
        "The network is untrained: random weights, as a control.": "untrained" in checkpoint,
        "The epoch was chosen on test data, which inflates the figures.":
            solver.get("CHOOSE_BEST_ON_TEST_DATA", False),
        "MSER re-ranks by the set of all queries, some forty images of each person, which a search doesn't have; the "
        "figures compare with none that are not re-ranked.":
            any(result.get("rerank") == "mser" for result in saved.get("results", [])),
        "AIM ranks an image by the whole gallery; the figures compare with none that are not re-ranked.":
            any(str(result.get("rerank")).startswith("aim ") for result in saved.get("results", [])),
        f"A mean over {len(checkpoint)} models, each of which is a trial.": several and not one_model,
        f"A mean over {len(checkpoint)} splits of the data, each of which is a trial, of one model.": one_model,
    }
    unfinished = [
        f"The training of {one['path']} is unfinished: {one['epochs']} of {how_many(epochs, 'epoch')}."
        for one in (checkpoint if several else [checkpoint])
        if one.get("epochs", epochs) < epochs and Path(one["path"]).name != "best.pth"  # validation chose that epoch
    ]
    elsewhere = sorted({result["trained_on"] for result in saved.get("results", []) if result.get("trained_on")})
    trained = [
        f"The network was trained on {name}, and tested on {saved['data']['name']}; the figures compare with none of "
        f"networks that were trained on {saved['data']['name']}." for name in elsewhere
    ]
    warnings = [line for line in saved.get("data_summary", "").splitlines() if line.startswith("warning:")]
    return [note for note, holds in known.items() if holds] + trained + unfinished + [*dict.fromkeys(warnings)]


def origin(saved: dict) -> list[tuple[str, object]]:
    """Where the figures come from."""
    checkpoint = saved.get("checkpoint", {})
    rows = {f"checkpoint: {key}": value for key, value in checkpoint.items()} if isinstance(checkpoint, dict) else {
        f"checkpoint {number}": one.get("path") for number, one in enumerate(checkpoint, start=1)
    }
    rows["data: fingerprint"] = saved["data"]["fingerprint"]
    rows |= {key: saved[key] for key in ("parameters", "device") if key in saved}
    return [*(rows | saved.get("versions", {})).items()]


def distances_caption(distances: dict) -> str:
    def number(value: float | None, form: str) -> str:
        return "unknown" if value is None else format(value, form).replace("%", " %")

    pairs = "; ".join(
        f"{name} {number(pair['within']['mean'], '.3f')} and {number(pair['between']['mean'], '.3f')}, "
        f"{number(pair['overlap'], '.0%')}"
        for name, pair in distances["pairs"].items()
    )
    return (
        "Cosine distances (1 - cosine) of the embeddings, before any re-ranking, of all pairs of different test "
        f"images. Mean of the same person's pairs, mean of different people's, and the histograms' overlap: {pairs}. "
        "The overlap is the area that two histograms of area 1 share: 0 % where they are apart, 100 % where they are "
        f"the same. Modality gap: {number(distances['modality_gap'], '.3f')}. That is how much farther apart the same "
        "person's images are across modalities: the mean in VIS-IR less the mean of those in VIS-VIS and IR-IR."
    )


def figure(heading: str, picture: bytes | None, caption: str, absent: str) -> str:
    """A section with a PNG or JPEG picture and its caption, or the sentence that says why it is absent."""
    content = f"<p>{text(absent)}</p>"
    if picture:
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
        content = (
            f'<figure><img src="{source}" alt="{text(heading)}">'
            f"<figcaption>{text(caption)}</figcaption></figure>"
        )
    return f"<section><h2>{text(heading)}</h2>{content}</section>\n"


def table(lines: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """The first cell of a line is its heading."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    rows = [
        f"<tr><th>{text(first)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in others)}</tr>"
        for first, *others in lines
    ]
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{''.join(rows)}</tbody></table>"


def flat(options: dict, prefix: str = "") -> list[tuple[str, object]]:
    """[("SOLVER.EPOCHS", 151), ...]"""
    pairs: list[tuple[str, object]] = []
    for key, value in options.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def text(value: object) -> str:
    return html.escape(str(value))
