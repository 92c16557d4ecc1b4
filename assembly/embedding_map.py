"""Embeddings on a plane (t-SNE), before and after training: who is near whom, whatever the modality?"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.records import Record
from utils.evaluation.metrics import inner_products
from utils.reporting.drawing import plain_matplotlib


class MissingLibrary(ValueError):
    """An optional library is not installed; the message says how to install it."""


def require_tsne() -> type:
    """scikit-learn's TSNE.

    raises   MissingLibrary
    """
    try:
        from sklearn.manifold import TSNE
    except Exception as error:  # noqa: BLE001 - it is absent, or it or what it stands on is broken
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingLibrary(
            f"the embedding map needs scikit-learn ({why}): pip install -r requirements-optional.txt, or leave the map "
            "out with --parts ranking attention"
        ) from None
    return TSNE


def on_a_plane(features: Tensor, seed: int) -> np.ndarray:
    """(N, E) of unit length -> (N, 2): t-SNE by cosine distance.

    raises   MissingLibrary
    """
    perplexity = min(30.0, (len(features) - 1) / 3)
    return require_tsne()(perplexity=perplexity, metric="cosine", init="pca", random_state=seed).fit_transform(
        features.cpu().numpy()
    )


def found_across(features: Tensor, identities: Tensor, infrared: Tensor) -> float:
    """The part of the infrared images whose nearest visible image is of the same person.

    features   (N, E) of unit length; identities (N,), infrared (N,) bool
    """
    nearest = inner_products(features[infrared], features[~infrared]).argmax(dim=1).cpu()
    return (identities[~infrared][nearest] == identities[infrared]).double().mean().item()


def map_picture(panels: Sequence[tuple[str, Tensor]], records: Sequence[Record], seed: int, title: str) -> Image.Image:
    """A panel for each network, side by side: a colour for each identity, circles visible, triangles infrared.

    panels   (heading, embeddings (N, E) of the records)
    """
    matplotlib = plain_matplotlib()  # not above: visualize.py is to say so where it is not installed
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    identities, infrared = (torch.tensor([getattr(r, name) for r in records]) for name in ("identity", "infrared"))
    number, colour = np.unique(identities, return_inverse=True)
    palette = matplotlib.colormaps["tab20" if len(number) <= 20 else "turbo"](np.linspace(0, 1, max(20, len(number))))
    figure = Figure(figsize=(6 * len(panels), 6.6), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (heading, features) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        features = torch.nn.functional.normalize(features, dim=1)
        plane = on_a_plane(features, seed)
        for night, marker, label in ((False, "o", "VIS"), (True, "^", "IR")):
            rows = (infrared == night).numpy()
            axes.scatter(
                *plane[rows].T, c=palette[colour[rows]], marker=marker, s=34, linewidths=0.4, edgecolors="black",
                label=label,
            )
        found = found_across(features, identities, infrared)
        axes.set_title(f"{heading}\nnearest VIS image is of the same person: {100 * found:.0f} % of IR", fontsize=11)
        axes.set(xticks=[], yticks=[])
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    for handle in cast(list[Any], legend.legend_handles):
        handle.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
