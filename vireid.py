"""A trained network for one's own program, in a clone of this repository (docs/own_program.md).

    import sys
    sys.path.append("path/to/the/clone")
    import vireid

    net = vireid.load("runs/sysu_cmfn")
    gallery = net.embed(["a.jpg", "b.jpg"], infrared=False)
    queries = net.embed("night.jpg", infrared=True)
    order, similarities = vireid.rank(queries, gallery, top=10)

The repository's packages have names that others use, too: `data`, `models`, `utils`, ... They are imported apart: here
these names mean the repository's, everywhere else what they meant before, whatever else is on the path.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
ROOMS = ("assembly", "common", "configs", "data", "losses", "models", "utils")

__all__ = ["ERRORS", "Net", "Ranking", "load", "rank"]


@contextmanager
def rooms_of_this_repository() -> Iterator[None]:
    """Inside, ROOMS are this repository's packages; afterwards the names are what they were.

    A program that has imported some of them by their own names, as scripts/ do, goes on with those.
    """
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ROOMS}
    apart = not any(is_ours(loaded.get(room)) for room in ROOMS)
    if apart:
        for name in loaded:
            del sys.modules[name]
    sys.path.insert(0, str(ROOT))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(ROOT))
        if apart:
            for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
                del sys.modules[name]
            sys.modules.update(loaded)


def is_ours(module: ModuleType | None) -> bool:
    return any(Path(place).resolve().parent == ROOT for place in getattr(module, "__path__", []))


with rooms_of_this_repository():
    from assembly.api import ERRORS, Net, Ranking, load, rank
