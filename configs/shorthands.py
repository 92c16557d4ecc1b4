"""Short options for the common steps of DATA.VISIBLE and DATA.INFRARED: each changes one step in all views.

    DATA.JITTER false      DATA.ERASING_AREA "[0.1, 0.3]"

Configurations of before the pipelines have these keys alone, so that their checkpoints still say what they did.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from yacs.config import CfgNode

from common.options import Option, option
from data.transforms import STEPS, read_step, shortest

ERASE = STEPS["erase"].numbers
CHOICE = (*cast(list, STEPS["one_of"].numbers["steps"].default), "channel_mix", "augmix")


class Shorthand(NamedTuple):
    option: Option  # its values; the default is that of no method
    apply: Callable[[CfgNode, Any], None]  # to the DATA section
    step: str = ""  # the one that it changes, where it adds none


def in_all_views(data: CfgNode, change: Callable[[list], list]) -> None:
    for name in ("VISIBLE", "INFRARED"):
        data[name] = shortest([change(view) for view in data[name]])


def without(view: list, name: str) -> list:
    return [step for step in view if read_step(step)[0] != name]


def with_step(view: list, name: str, after: str, **numbers: object) -> list:
    """The view with other numbers of a step, each time it is there; else it comes after another one (or first)."""
    names = [read_step(step)[0] for step in view]
    if name in names:
        changed = [{name: given(step) | numbers} if numbers else name for step in view]
        return [new if found == name else step for found, new, step in zip(names, changed, view)]
    place = names.index(after) + 1 if after in names else 0
    return [*view[:place], {name: numbers} if numbers else name, *view[place:]]


def given(step: object) -> dict:
    """The numbers that a step is written with."""
    if not isinstance(step, dict):
        return {}
    (name, numbers), = step.items()
    return numbers if isinstance(numbers, dict) else {next(iter(STEPS[name].numbers)): numbers}


def jitter(data: CfgNode, on: bool) -> None:
    in_all_views(data, lambda view: with_step(view, "jitter", after="") if on else without(view, "jitter"))


def grey(data: CfgNode, p: float) -> None:
    in_all_views(data, lambda view: with_step(view, "grey", "pad", p=p) if p else without(view, "grey"))


def erasing(data: CfgNode, p: float) -> None:
    in_all_views(data, lambda view: with_step(view, "erase", "normalise", p=p) if p else without(view, "erase"))


def erasing_number(name: str) -> Callable[[CfgNode, object], None]:
    """Sets a number of the step where it is; where nothing is erased, it has no meaning."""
    def apply(data: CfgNode, value: object) -> None:
        in_all_views(data, lambda view: [
            {"erase": given(step) | {name: value}} if read_step(step)[0] == "erase" else step for step in view
        ])

    return apply


def exchange(data: CfgNode, which: str) -> None:
    plain = without(data.VISIBLE[0], "exchange")
    infrared = without(data.INFRARED[0], "adapt")
    if which == "none":
        data.VISIBLE, data.INFRARED = [plain], [infrared]
    else:
        second = [*plain, {"exchange": {"grey": which == "channels_and_grey"}}]
        data.VISIBLE, data.INFRARED = shortest([plain, second]), [[*infrared, "adapt"]]


def one_of(data: CfgNode, steps: list) -> None:
    views = [without(view, "one_of") for view in data.VISIBLE]
    data.VISIBLE = shortest([[{"one_of": steps}, *view] if steps else view for view in views])


SHORTHANDS = {
    "DATA.JITTER": Shorthand(option(True, "colour jitter, or none"), jitter),
    "DATA.GREY": Shorthand(option(0.5, "p of grey; 0: no such step", at_least=0, at_most=1), grey),
    "DATA.ERASING": Shorthand(option(0.5, "p of erase; 0: no such step", at_least=0, at_most=1), erasing),
    "DATA.ERASING_AREA": Shorthand(ERASE["area"], erasing_number("area"), "erase"),
    "DATA.ERASING_FILL": Shorthand(ERASE["fill"], erasing_number("fill"), "erase"),
    "DATA.ONE_OF": Shorthand(
        option([], "visible images get one of these steps, with their usual numbers; []: none", one_of=CHOICE), one_of,
    ),
    "DATA.EXCHANGE": Shorthand(
        option("none", "CAJ's exchange and adaption: none, channels, channels_and_grey",
               one_of=("none", "channels", "channels_and_grey")), exchange,
    ),
}
