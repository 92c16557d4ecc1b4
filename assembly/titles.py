"""What tables, pages and pictures call a method."""

from models.build import MODELS


def method_title(model: dict) -> str:
    """
    model   the MODEL section of a configuration, of a results file too
    """
    name = model.get("NAME", "network")
    return MODELS[name].title(model) if name in MODELS else name.upper()
