"""Lists of classes by name, a line for each."""

from importlib import import_module
from typing import Any


def classes_of(package: str, places: dict[str, str]) -> dict[str, Any]:
    """
    places   by the name that configurations use: module of the package and class, such as "cmfn.CMFN"
    """
    found: dict[str, Any] = {}
    for name, place in places.items():
        module, _, title = place.rpartition(".")
        found[name] = getattr(import_module(f"{package}.{module}"), title)
    return found
