"""matplotlib as it comes: what the environment and files of the user's say of windows and styles changes no picture."""

import os
import sys
from types import ModuleType


def plain_matplotlib() -> ModuleType:
    """The module; import others of its modules after this, and not at the top of a file that doesn't always draw.

    raises   whatever a broken installation does
    """
    if "matplotlib" not in sys.modules:
        os.environ["MPLBACKEND"] = "agg"  # an unknown one would fail the import; nothing here opens a window
    import matplotlib

    matplotlib.rcdefaults()
    return matplotlib
