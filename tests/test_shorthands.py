"""Short options of the pipelines, and configurations of before there were pipelines, which had those alone."""

import pytest
from configurations import CONFIGS, IMAGENET, LARGE, SMALL, step_of, write
from yacs.config import CfgNode

from configs.load import differences, flatten, from_dump, load_config


def views_of(name, *overrides):
    data = load_config(CONFIGS / f"{name}.yaml", overrides).DATA
    return data.VISIBLE, data.INFRARED


CMFN = ["jitter", "pad", "grey", "crop", "flip", "normalise", "erase"]


@pytest.mark.parametrize("words, expected", [
    (["DATA.JITTER", "false"], ["pad", "grey", "crop", "flip", "normalise", "erase"]),
    (["DATA.JITTER", "true"], CMFN),
    (["DATA.JITTER", "false", "DATA.JITTER", "true"], CMFN),
    (["DATA.GREY", "0"], ["jitter", "pad", "crop", "flip", "normalise", "erase"]),
    (["DATA.GREY", "0.2"], ["jitter", "pad", {"grey": {"p": 0.2}}, "crop", "flip", "normalise", "erase"]),
    (["DATA.GREY", "0", "DATA.GREY", "0.5"], CMFN),
    (["DATA.ERASING", "0"], ["jitter", "pad", "grey", "crop", "flip", "normalise"]),
    (["DATA.ERASING", "1"], [*CMFN[:-1], {"erase": {"p": 1.0}}]),
    (["DATA.ERASING_AREA", "[0.1, 0.3]"], [*CMFN[:-1], {"erase": {"area": [0.1, 0.3]}}]),
    (["DATA.ERASING_FILL", "[1, 2, 3]"], [*CMFN[:-1], {"erase": {"fill": [1, 2, 3]}}]),
    (["DATA.ERASING", "0.1", "DATA.ERASING_AREA", "[0.1, 0.3]", "DATA.ERASING_FILL", "[1, 2, 3]"],
     [*CMFN[:-1], {"erase": {"p": 0.1, "area": [0.1, 0.3], "fill": [1, 2, 3]}}]),
    (["DATA.EXCHANGE", "none"], CMFN),
])
def test_a_short_option_changes_its_step_in_all_pipelines(words, expected):
    assert views_of("sysu_cmfn", *words) == ([expected], [expected])


def test_short_options_add_a_step_where_it_belongs():
    plain = ["pad", "crop", "flip", "normalise"]
    assert views_of("sysu_agw") == ([plain], [plain])
    added = ["jitter", "pad", "grey", "crop", "flip", "normalise", {"erase": {"p": 0.4}}]
    words = ["DATA.ERASING", "0.4", "DATA.GREY", "0.5", "DATA.JITTER", "true"]
    assert views_of("sysu_agw", *words) == ([added], [added])


def test_short_options_keep_what_a_step_says_besides():
    (view,), _ = views_of("sysu_mpanet", "DATA.ERASING", "0.9")
    numbers = step_of(view, "erase")
    assert (numbers["p"], numbers["tries"], numbers["aspect"], numbers["fill"]) == (0.9, 10, [0.3, 3.3], [0, 0, 0])
    words = ["DATA.VISIBLE", "[['normalise', {'erase': 0.2}]]", "DATA.ERASING_AREA", "[0.1, 0.3]"]
    assert views_of("sysu_cmfn", *words)[0] == [["normalise", {"erase": {"p": 0.2, "area": [0.1, 0.3]}}]]


def test_a_short_option_changes_a_step_each_time_it_is_there():
    words = ["DATA.VISIBLE", "[['normalise', 'erase', 'exchange', {'erase': {'tries': 9}}]]", "DATA.ERASING", "0.2"]
    steps = ["normalise", {"erase": {"p": 0.2}}, "exchange", {"erase": {"p": 0.2, "tries": 9}}]
    assert views_of("sysu_cmfn", *words)[0] == [steps]


def test_the_exchange_makes_and_takes_away_a_second_view():
    erase = {"erase": {"area": SMALL, "fill": [0.4914, 0.4822, 0.4465]}}
    plain = ["pad", "crop", "flip", "normalise", erase]
    assert views_of("sysu_caj") == ([plain, [*plain, "exchange"]], [[*plain, "adapt"]])
    assert views_of("sysu_caj", "DATA.EXCHANGE", "channels") == views_of("sysu_caj")
    visible, infrared = views_of("sysu_caj", "DATA.EXCHANGE", "channels_and_grey")
    assert visible == [plain, [*plain, {"exchange": {"grey": True}}]] and infrared == [[*plain, "adapt"]]
    assert views_of("sysu_caj", "DATA.EXCHANGE", "none") == ([plain], [plain])
    plain = ["pad", "crop", "flip", "normalise"]
    assert views_of("sysu_agw", "DATA.EXCHANGE", "channels") == ([plain, [*plain, "exchange"]], [[*plain, "adapt"]])


def test_a_short_option_in_a_file_changes_the_pipelines_of_its_base(tmp_path):
    write(tmp_path, mine=f"BASE: {CONFIGS / 'sysu_caj.yaml'}\nDATA: {{ERASING: 0.0, GREY: 0.3}}\n")
    data = load_config(tmp_path / "mine.yaml").DATA
    plain = ["pad", {"grey": {"p": 0.3}}, "crop", "flip", "normalise"]
    assert (data.VISIBLE, data.INFRARED) == ([plain, [*plain, "exchange"]], [[*plain, "adapt"]])


# What configurations of before the pipelines said of the images: JITTER, GREY, ERASING, ERASING_AREA, ERASING_FILL,
# EXCHANGE.
BEFORE = {
    "sysu_cmfn": (True, 0.5, 0.5, LARGE, IMAGENET, "none"),
    "regdb_cmfn": (False, 0.5, 0.5, SMALL, IMAGENET, "none"),
    "llcm_cmfn": (False, 0.5, 0.5, SMALL, IMAGENET, "none"),
    "sysu_cmfn_as_drawn": (True, 0.5, 0.5, LARGE, IMAGENET, "none"),
    "sysu_agw": (False, 0.0, 0.0, LARGE, IMAGENET, "none"),
    "regdb_base": (False, 0.0, 0.0, LARGE, IMAGENET, "none"),
    "llcm_agw": (False, 0.0, 0.5, SMALL, [0.0, 0.0, 0.0], "none"),
    "sysu_caj": (False, 0.0, 0.5, SMALL, [0.4914, 0.4822, 0.4465], "channels"),
    "sysu_deen": (False, 0.5, 0.5, LARGE, IMAGENET, "none"),
    "regdb_deen": (False, 0.5, 0.5, SMALL, IMAGENET, "none"),
}
SINCE = ("DATA.VISIBLE", "DATA.INFRARED", "DATA.RESIZE", "DATA.READ_SIZE", "SOLVER.SAMPLER", "SOLVER.OPTIMIZER",
         "SOLVER.SCHEDULE", "SOLVER.LOWEST_LR", "LOSS.MPANET.", "LOSS.PMT.", "MODEL.PMT.", "LOSS.MSCMNET.",
         "MODEL.MSCMNET.", "LOSS.MCJA.", "MODEL.MCJA.")


def dumped_before(name):
    """The text that a checkpoint of before the pipelines has: options of all methods, and the six keys."""
    cfg = load_config(CONFIGS / f"{name}.yaml")
    pairs = {key: value for key, value in flatten(cfg) if not key.startswith(SINCE)}
    short = ("JITTER", "GREY", "ERASING", "ERASING_AREA", "ERASING_FILL", "EXCHANGE")
    pairs |= {f"DATA.{key}": value for key, value in zip(short, BEFORE[name])}
    if cfg.MODEL.NAME != "cmfn":
        pairs["LOSS.DCL_WEIGHTS"] = [[0, 0.0]]  # what the others had to say
    sections = {}
    for key, value in pairs.items():
        *inside, last = key.split(".")
        node = sections
        for part in inside:
            node = node.setdefault(part, {})
        node[last] = value
    return CfgNode(sections).dump()


@pytest.mark.parametrize("name", BEFORE)
def test_a_configuration_of_before_the_pipelines_is_that_of_todays_file(name):
    text = dumped_before(name)
    assert "EXCHANGE:" in text and "VISIBLE" not in text and "DCL_WEIGHTS" in text
    assert differences(from_dump(text), load_config(CONFIGS / f"{name}.yaml")) == []


def test_any_of_the_earlier_switches_is_read():
    text = dumped_before("sysu_agw").replace("JITTER: false", "JITTER: true").replace("GREY: 0.0", "GREY: 0.25")
    text = text.replace("ERASING: 0.0", "ERASING: 0.75").replace("EXCHANGE: none", "EXCHANGE: channels_and_grey")
    data = from_dump(text).DATA
    plain = ["jitter", "pad", {"grey": {"p": 0.25}}, "crop", "flip", "normalise", {"erase": {"p": 0.75}}]
    assert data.VISIBLE == [plain, [*plain, {"exchange": {"grey": True}}]] and data.INFRARED == [[*plain, "adapt"]]
