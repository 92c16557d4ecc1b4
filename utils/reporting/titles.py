"""What tables, pages and pictures call a method. Without torch, as the table script is."""


def method_title(model: dict) -> str:
    """
    model   the MODEL section of a configuration
    """
    switched_off = {"NAME": "agw", "NON_LOCAL": "none", "POOL": "average"}
    if switched_off.items() <= model.items():
        return "Two-stream baseline"
    return model.get("NAME", "network").upper()
