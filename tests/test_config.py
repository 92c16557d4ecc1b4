import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from programs import run
from yacs.config import CfgNode

from common.options import MOST_EPOCHS, Section, option
from configs.defaults import OPTIONS, OWNERS, collected, get_defaults
from configs.load import ConfigError, as_yaml, differences, explained, flatten, from_dump, load_config
from configs.shorthands import SHORTHANDS
from data.transforms import read_step
from losses.build import TOTALS
from models.build import MODELS

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RECIPES = sorted(path.stem for path in (CONFIGS / "methods").glob("*.yaml"))
SMALL, LARGE, IMAGENET = [0.02, 0.4], [0.2, 0.8], [0.485, 0.456, 0.406]


def step_of(view, name):
    """All numbers of a view's step; None where it has none of that name."""
    return next((numbers for found, numbers in map(read_step, view) if found == name), None)


def names_of(view):
    return [read_step(step)[0] for step in view]


def erasing(view):
    """Probability, area and fill of the erasing; None without one."""
    numbers = step_of(view, "erase")
    return numbers and (numbers["p"], numbers["area"], numbers["fill"])


def one_pipeline(cfg):
    """That of both modalities, where they have the same, and no second view."""
    view, = cfg.DATA.VISIBLE
    assert cfg.DATA.INFRARED == [view]
    return view


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_file_loads_and_opens_with_its_command(file):
    load_config(file)
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any("train.py --config" in line or "quickstart.sh" in line for line in head)


@pytest.mark.parametrize("file", sorted((CONFIGS / "methods").glob("*.yaml")), ids=lambda p: p.name)
def test_every_methods_file_loads_and_is_a_base(file):
    assert load_config(file).MODEL.NAME in MODELS
    bases = [f for f in CONFIGS.glob("*_*.yaml") if f"BASE: methods/{file.name}" in f.read_text()]
    assert len(bases) >= 3  # one for each data set


@pytest.mark.parametrize("name, height, width, jitter, area, stages", [
    ("sysu", 384, 192, True, [0.2, 0.8], 4),
    ("regdb", 384, 144, False, [0.02, 0.4], 3),
    ("llcm", 384, 144, False, [0.02, 0.4], 4),
])
def test_the_papers_recipe(name, height, width, jitter, area, stages):
    cfg = load_config(CONFIGS / f"{name}_cmfn.yaml")
    assert (cfg.DATA.HEIGHT, cfg.DATA.WIDTH) == (height, width)
    view = one_pipeline(cfg)
    assert names_of(view) == [*(["jitter"] if jitter else []), "pad", "grey", "crop", "flip", "normalise", "erase"]
    assert erasing(view) == (0.5, area, IMAGENET) and cfg.MODEL.STAGES == stages
    assert (cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES, cfg.SOLVER.EPOCHS) == (6, 4, 151)
    assert (cfg.MODEL.BACKBONE, cfg.MODEL.PRETRAINED) == ("resnet50", "imagenet")
    loss, solver = cfg.LOSS, cfg.SOLVER
    assert (loss.TRIPLET_WEIGHT, loss.TRIPLET_MARGIN) == (1.0, 0.3)
    assert (loss.CPM_WEIGHT, loss.CPM_MARGIN, loss.ORTHOGONAL_WEIGHT) == (0.8, 0.2, 0.01)
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.BASE_LR, solver.BACKBONE_LR_FACTOR) == (0.9, 5e-4, 0.1, 0.1)
    assert (solver.OPTIMIZER, solver.SCHEDULE, solver.SAMPLER) == ("sgd", "steps", "replacement")
    assert (step_of(view, "grey")["p"], step_of(view, "flip")["p"], cfg.TEST.FLIP) == (0.5, 0.5, True)
    assert (step_of(view, "pad")["pixels"], step_of(view, "pad")["fill"], cfg.DATA.RESIZE) == (10, 0, "lanczos")


@pytest.mark.parametrize("method, size, batch, epochs, steps, flip", [
    ("base", (288, 144), (8, 4), 81, [[20, 0.1], [50, 0.01]], False),
    ("agw", (288, 144), (8, 4), 81, [[20, 0.1], [50, 0.01]], False),
    ("caj", (288, 144), (8, 4), 100, [[20, 0.1], [50, 0.01]], True),
    ("deen", (384, 144), (6, 4), 151, [[20, 0.1], [80, 0.01]], True),
    ("mclnet", (288, 144), (8, 4), 201, [[20, 0.1], [50, 0.01]], False),
])
@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_the_compared_methods_recipes(name, method, size, batch, epochs, steps, flip):
    cfg = load_config(CONFIGS / f"{name}_{method}.yaml")
    solver = cfg.SOLVER
    assert (cfg.DATA.NAME, solver.EVAL_PERIOD) == (name, {"deen": 1, "mclnet": 5}.get(method, 2))
    assert ((cfg.DATA.HEIGHT, cfg.DATA.WIDTH), (solver.IDENTITIES, solver.IMAGES)) == (size, batch)
    assert (solver.EPOCHS, solver.LR_STEPS, solver.WARMUP_EPOCHS, cfg.TEST.FLIP) == (epochs, steps, 10, flip)
    assert (solver.BASE_LR, solver.BACKBONE_LR_FACTOR, solver.WEIGHT_DECAY) == (0.1, 0.1, 5e-4)
    assert (solver.OPTIMIZER, solver.SCHEDULE, solver.SAMPLER) == ("sgd", "steps", "replacement")
    assert cfg.DATA.RESIZE == "lanczos"
    erased = {
        "base": (0.5, SMALL, [0.0] * 3) if name == "llcm" else None,
        "agw": (0.5, SMALL, [0.0] * 3) if name == "llcm" else None,
        "caj": (0.5, SMALL, [0.4914, 0.4822, 0.4465]),
        "deen": (0.5, LARGE if name == "sysu" else SMALL, IMAGENET),
        "mclnet": (0.8, [0.1, 0.8], IMAGENET),
    }[method]
    grey = ["grey"] if method == "deen" else []
    plain = ["pad", *grey, "crop", "flip", "normalise", *(["erase"] if erased else [])]
    more = (["exchange"], ["adapt"]) if method == "caj" else ([], [])
    assert [*map(names_of, cfg.DATA.VISIBLE)] == [plain, *([[*plain, *more[0]]] if more[0] else [])]
    assert [*map(names_of, cfg.DATA.INFRARED)] == [[*plain, *more[1]]]
    for view in (*cfg.DATA.VISIBLE, *cfg.DATA.INFRARED):
        assert erasing(view) == erased and step_of(view, "flip")["p"] == 0.5
        assert not grey or step_of(view, "grey")["p"] == 0.5
        assert step_of(view, "exchange") is None or not step_of(view, "exchange")["grey"]
    # Network and losses: these options differ from their defaults, and no others.
    expected = {
        "base": {"MODEL.NAME": "agw", "MODEL.NON_LOCAL": "none"},
        "agw": {"MODEL.NAME": "agw", "MODEL.POOL": "gem", "LOSS.TRIPLET": "weighted"},
        "caj": {"MODEL.NAME": "caj", "MODEL.POOL": "gem", "LOSS.TRIPLET": "squared_difference"},
        "mclnet": {"MODEL.NAME": "mclnet", "MODEL.POOL": "gem", "LOSS.TRIPLET": "weighted"} | {
            "sysu": {}, "regdb": {"LOSS.MCLNET.CAMERA_WEIGHT": 0.0}, "llcm": {"MODEL.MCLNET.CAMERAS": 9},
        }[name],
        "deen": {"MODEL.NAME": "deen"} | ({"MODEL.STAGES": 3} if name == "regdb" else {}),
    }[method]
    defaults = dict(flatten(get_defaults()))
    assert expected == {
        key: value for key, value in flatten(cfg) if value != defaults[key] and key.startswith(("MODEL.", "LOSS."))
    }


@pytest.mark.parametrize("name, height, batch, steps", [
    ("sysu", 384, (16, 4), [[80, 0.1], [120, 0.01]]), ("regdb", 256, (12, 5), [[110, 0.1]]),
    ("llcm", 384, (16, 4), [[80, 0.1], [120, 0.01]]),
])
def test_mpanets_recipe(name, height, batch, steps):
    cfg = load_config(CONFIGS / f"{name}_mpanet.yaml")
    solver, view = cfg.SOLVER, one_pipeline(cfg)
    assert (cfg.DATA.NAME, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, cfg.DATA.RESIZE) == (name, height, 128, "bilinear")
    assert (solver.IDENTITIES, solver.IMAGES, solver.SAMPLER) == (*batch, "chunks")
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.BACKBONE_LR_FACTOR) == ("adam", 3.5e-4, 1.0)
    assert (solver.EPOCHS, solver.LR_STEPS, solver.WARMUP_EPOCHS) == (140, steps, 0)
    assert (solver.WEIGHT_DECAY, cfg.TEST.FLIP) == (5e-4, False)
    always = {"from": 0, "until": MOST_EPOCHS}
    found = [(step, {k: v for k, v in numbers.items() if k not in always}) for step, numbers in map(read_step, view)]
    assert found == [
        ("flip", {"p": 0.5}), ("pad", {"pixels": 10, "fill": 127}), ("crop", {}), ("normalise", {}),
        ("erase", {"p": 0.5, "area": [0.02, 0.33], "fill": [0, 0, 0], "aspect": [0.3, 3.3], "tries": 10,
                   "even_log": False, "before_normalise": False}),
    ]
    assert all(numbers.items() >= always.items() for _, numbers in map(read_step, view))


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_mscmnets_recipe(name):
    cfg = load_config(CONFIGS / f"{name}_mscmnet.yaml")
    solver, data = cfg.SOLVER, cfg.DATA
    assert (data.NAME, data.HEIGHT, data.WIDTH, data.RESIZE, cfg.TEST.FLIP) == (name, 384, 192, "lanczos", False)
    assert (solver.IDENTITIES, solver.IMAGES, solver.SAMPLER, solver.EPOCHS) == (6, 4, "replacement", 150)
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.BACKBONE_LR_FACTOR) == ("sgd", 0.1, 0.1)
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.PRECISION) == (0.9, 5e-4, "float16")
    assert cfg.MODEL.NON_LOCAL == "half"
    plain = ["pad", "crop", "flip", "normalise", "erase"]
    assert [*map(names_of, data.VISIBLE)] == [["grey", *plain], [*plain, "exchange"]]
    assert [*map(names_of, data.INFRARED)] == [[*plain, "green"], ["brightness", *plain, "dim"]]
    for view in (*data.VISIBLE, *data.INFRARED):
        assert erasing(view) == (0.5, SMALL, [0.4914, 0.4822, 0.4465]) and step_of(view, "flip")["p"] == 0.5
    (grey, exchange), (green, second) = data.VISIBLE, data.INFRARED
    assert step_of(grey, "grey")["p"] == 0.5 and step_of(second, "brightness")["by"] == 0.5
    assert step_of(exchange, "exchange")["grey"] is False
    assert (step_of(green, "green")["p"], step_of(green, "green")["grey"]) == (0.5, 0.5)
    assert (step_of(second, "dim")["p"], step_of(second, "dim")["least"]) == (0.5, 0.02)


@pytest.mark.parametrize("name, batch, epochs, steps, masks", [
    ("sysu", (8, 16), 140, [[80, 0.1], [120, 0.01]], 2), ("regdb", (4, 32), 300, [], 12),
    ("llcm", (8, 16), 140, [[80, 0.1], [120, 0.01]], 2),
])
def test_mcjas_recipe(name, batch, epochs, steps, masks):
    cfg = load_config(CONFIGS / f"{name}_mcja.yaml")
    solver, (visible,), (infrared,) = cfg.SOLVER, cfg.DATA.VISIBLE, cfg.DATA.INFRARED
    assert (cfg.DATA.NAME, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, cfg.DATA.RESIZE) == (name, 384, 192, "bilinear")
    assert (solver.IDENTITIES, solver.IMAGES, solver.SAMPLER) == (*batch, "blind_chunks")
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.BACKBONE_LR_FACTOR) == ("adam", 3.5e-4, 1.0)
    assert (solver.EPOCHS, solver.LR_STEPS, solver.WARMUP_EPOCHS, cfg.MODEL.MCJA.MASKS) == (epochs, steps, 0, masks)
    assert (solver.WEIGHT_DECAY, solver.PRECISION, cfg.TEST.FLIP) == (5e-4, "float16", False)
    assert visible == ["one_of", *infrared] and read_step("one_of")[1]["steps"] == [
        "hue", "weighted_grey", "channel_cutmix", "spectrum_jitter"]
    assert infrared == ["flip", {"pad": {"fill": 127}}, "crop", "normalise", {
        "erase": {"area": [0.02, 0.3], "fill": [0, 0, 0], "aspect": [0.3, 3.3], "tries": 10, "even_log": True}}]
    assert load_config(CONFIGS / f"{name}_mcja.yaml", ["DATA.ONE_OF", "[]"]).DATA.VISIBLE == [infrared]


def without_sizes(views):
    steps = [[read_step(step) for step in view] for view in views]
    return [[(n, {k: v for k, v in numbers.items() if k not in ("area", "pixels")}) for n, numbers in view]
            for view in steps]


@pytest.mark.parametrize("method", ["base", "agw", "caj", "deen"])
def test_a_small_config_has_the_methods_own_network_losses_and_augmentation(method):
    small, whole = (load_config(CONFIGS / f"{name}_{method}.yaml") for name in ("quickstart", "sysu"))
    kept = ("MODEL.NAME", "MODEL.POOL", "MODEL.NON_LOCAL", "MODEL.MFA", "MODEL.DEE", "LOSS.TRIPLET:", "LOSS.DCL",
            "TEST", "LOSS.DIVERGENCE", "DATA.RESIZE")
    assert not [line for line in differences(small, whole) if line.startswith(kept)]
    for name in ("VISIBLE", "INFRARED"):  # of which only the erased area and the border, those of small images, differ
        assert without_sizes(small.DATA[name]) == without_sizes(whole.DATA[name])
    assert small.SOLVER == load_config(CONFIGS / "quickstart_cmfn.yaml").SOLVER
    assert small.DATA.NAME == "synthetic" and small.MODEL.STAGES == 4


def test_as_drawn_sets_every_difference_of_the_figure_and_nothing_else():
    drawn, code = load_config(CONFIGS / "sysu_cmfn_as_drawn.yaml"), load_config(CONFIGS / "sysu_cmfn.yaml")
    keys = {line.split(":")[0] for line in differences(drawn, code)}
    assert keys == {
        "MODEL.HCE.DILATIONS", "MODEL.HCE.THIRD", "MODEL.MBUE.CONTEXT_PATH", "MODEL.MBUE.SEPARATE_COMPRESSIONS",
        "MODEL.CSC_CMA.KEYS", "MODEL.MBUE.TOKEN_LAYOUT", "MODEL.MFA.POSITIONS", "OUTPUT",
    }


def test_overrides_come_last_and_are_read_as_values():
    cfg = load_config(CONFIGS / "sysu_cmfn.yaml", ["SOLVER.EPOCHS", "3", "SOLVER.BASE_LR", "1", "DATA.JITTER", "false",
                                                   "DATA.ERASING_AREA", "(0.1, 0.2)", "OUTPUT", "runs/a b"])
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BASE_LR, cfg.OUTPUT) == (3, 1.0, "runs/a b")
    assert names_of(one_pipeline(cfg)) == ["pad", "grey", "crop", "flip", "normalise", "erase"]
    assert erasing(one_pipeline(cfg)) == (0.5, [0.1, 0.2], IMAGENET)
    view = "[['flip', 'normalise', {'erase': {'area': (0.1, 0.2)}}]]"
    cfg = load_config(CONFIGS / "sysu_cmfn.yaml", ["DATA.VISIBLE", view])
    assert cfg.DATA.VISIBLE == [["flip", "normalise", {"erase": {"area": [0.1, 0.2]}}]] != cfg.DATA.INFRARED


@pytest.mark.parametrize("overrides, complaint", [
    (["SOLVER.EPOCH", "3"], "SOLVER.EPOCH, which is not an option; the nearest is SOLVER.EPOCHS"),
    (["MODEL.MBUE", "3"], "MODEL.MBUE, which is not an option; the nearest is MODEL.MBUE."),
    (["SOLVER.EPOCHS", "many"], "SOLVER.EPOCHS to 'many', str where int is wanted, such as 151"),
    (["SOLVER.EPOCHS", "2.5"], "float where int is wanted"),
    (["DATA.JITTER", "1"], "int where bool is wanted"),
    (["MODEL.MFA.POSITIONS", "half"], "it is one of halves, all"),
    (["DATA.ERASING_FILL", "['a', 0, 0]"], "DATA.ERASING_FILL to ['a', 0, 0], where [0.485, 0.456, 0.406] would do"),
    (["DATA.ERASING_AREA", "[0.5]"], "where [0.2, 0.8] would do"),
    (["SOLVER.LR_STEPS", "[20, 0.1]"], "where [[20, 0.1], [80, 0.01]] would do"),
    (["SOLVER.LR_STEPS", "[[20, 0.1, 3]]"], "where [[20, 0.1], [80, 0.01]] would do"),
    (["TEST.WEIGHTINGS", "[1]"], "where ['a list of words'] would do"),
    (["LOSS.CPM_WEIGHT", "-1"], "sets LOSS.CPM_WEIGHT to -1.0; it is 0 at least"),
    (["SOLVER.EPOCHS"], "options on the command line come in pairs, KEY VALUE; 'SOLVER.EPOCHS' stands alone"),
    (["SOLVER.EPOCHS", "SEED", "3"], "sets SOLVER.EPOCHS to 'SEED', which is an option: a value is missing"),
    (["SOLVER.EPOCHS=3"], "has 'SOLVER.EPOCHS=3'; key and value are two words: SOLVER.EPOCHS 3"),
    (["", "3"], "sets , which is not an option; the nearest is"),
    (["SOLVER.ACCUMULATION", "0"], "the command line sets SOLVER.ACCUMULATION to 0; it is 1 at least"),
    (["DATA.HEIGHT", "1000000000"], "sets DATA.HEIGHT to 1000000000; it is 16 at least and 4096 at most"),
    (["SEED", "0x" + "f" * 4000], "sets SEED to a number of thousands of digits; it is 0 at least"),
    (["SEED", "(" * 300], "str where int is wanted"),
    (["SEED", "{[]: 1}"], "sets SEED to '{[]: 1}', str where int is wanted"),
    (["SOLVER.BASE_LR", "1" + "0" * 400], "int where float is wanted"),
    (["SOLVER.BASE_LR", "1e999"], "sets SOLVER.BASE_LR to inf; it is 0 at least and finite"),
    (["MODEL.HCE.DILATIONS", "[1.5, 2, 3]"], "where [2, 3, 5] would do"),
    (["DEVICE", "gpu"], "sets DEVICE to 'gpu'; it is auto, cpu, cuda"),
    (["DATA.VISIBLE", "flip"], "sets DATA.VISIBLE to 'flip'; it is a list of views, each a list of the steps jitter,"),
    (["DATA.VISIBLE", "[]"], "sets DATA.VISIBLE to []; it is a list of views"),
    (["DATA.INFRARED", "[['flip']]"], "sets DATA.INFRARED to [['flip']]: a view needs normalise once"),
    (["DATA.INFRARED", "[['blur', 'normalise']]"], ": 'blur' is no step; steps are jitter, pad, grey"),
    (["DATA.INFRARED", "[['normalise', {'erase': {'p': 2}}]]"], ": erase has p 2.0; it is 0 at least and 1 at most"),
    (["DATA.GREY", "1.5"], "sets DATA.GREY to 1.5; it is 0 at least and 1 at most"),
    (["DATA.EXCHANGE", "grey"], "sets DATA.EXCHANGE to 'grey'; it is one of none, channels, channels_and_grey"),
    (["DATA.RESIZE", "nearest"], "it is one of lanczos, bilinear"),
    (["SOLVER.SAMPLER", "all"], "it is one of replacement, distinct, chunks"),
    (["SOLVER.OPTIMIZER", "lion"], "it is one of sgd, adam, adamw"),
    (["SOLVER.SCHEDULE", "linear"], "it is one of steps, cosine, line"),
    (["BASE", "methods/agw.yaml"], "the command line sets BASE, which is not an option"),
    (["LOSS.DIVERGENCE_WEIGHT", "1"],
     "the command line sets LOSS.DIVERGENCE_WEIGHT, which cmfn does not read; it is an option of caj"),
    (["MODEL.NON_LOCAL", "half"], "sets MODEL.NON_LOCAL, which cmfn does not read; it is an option of agw, caj"),
    (["LOSS.MPANET.MUTUAL_WEIGHT", "1"], "which cmfn does not read; it is an option of mpanet"),
    (["MODEL.NAME", "mpanet", "LOSS.TRIPLET_MARGIN", "1"],
     "LOSS.TRIPLET_MARGIN, which mpanet does not read; it is an option of agw, caj, cmfn, deen"),
    (["LOSS.TRIPLET_MARGIN", "1", "MODEL.NAME", "mpanet"], "LOSS.TRIPLET_MARGIN, which mpanet does not read"),
])
def test_a_wrong_override_is_refused_with_the_fix(overrides, complaint):
    with pytest.raises(ConfigError) as error:
        load_config(overrides=overrides)
    assert complaint in str(error.value)


@pytest.mark.parametrize("text, complaint", [
    ("SOLVER:\n  EPOHCS: 3\n", "the nearest is SOLVER.EPOCHS"),
    ("SOLVER: [\n", "not a readable yaml file"),
    ("just words\n", "must hold sections and keys"),
    ("# nothing\n", "must hold sections and keys"),
    ("- SEED\n", "must hold sections and keys"),
    ("SEED: 1\nSEED: 2\n", "SEED is set twice"),
    ("SOLVER: {EPOCHS: 1}\nSOLVER.EPOCHS: 2\n", "sets SOLVER.EPOCHS twice"),
    ("SOLVER:\n", "sets SOLVER, which is not an option; the nearest is SOLVER."),
    ("SOLVER: {}\n", "sets SOLVER, which is not an option"),
    ("SOLVER: [3]\n", "sets SOLVER, which is not an option"),
    ("SEED: {}\n", "sets SEED to {}, dict where int is wanted"),
    ("SOLVER: {3: 4}\n", "sets SOLVER.3, which is not an option"),
    ("? [1]\n: 2\n", "not a readable yaml file"),
    ("SOLVER: &all {EPOCHS: *all}\n", "not a readable yaml file"),
    ("OUTPUT: 2024-13-01\n", "not a readable yaml file"),
    ("SEED: " + "9" * 5000, "not a readable yaml file"),
    ("LOSS: {CPM_MARGIN: .nan}\n", "sets LOSS.CPM_MARGIN to nan; it is 0 at least and 100 at most"),
    ('OUTPUT: "a\\0b"\n', "sets OUTPUT to 'a\\x00b'; it is a text on one line"),
    ("BASE: 3\n", "sets BASE to 3; it is the path of a yaml file"),
    ("BASE: [a.yaml]\n", "sets BASE to ['a.yaml']; it is the path of a yaml file"),
    ("BASE: mine.yaml\n", "has the BASE mine.yaml, whose BASE it is itself"),
    ("BASE: nowhere.yaml\n", "has the BASE nowhere.yaml, and there is no file "),
    ("MODEL: {NAME: agw}\nLOSS: {CPM_WEIGHT: 1}\n",
     "mine.yaml sets LOSS.CPM_WEIGHT, which agw does not read; it is an option of cmfn, deen"),
    ("DATA: {VISIBLE: [pad, crop, normalise]}\n", "DATA.VISIBLE to ['pad', 'crop', 'normalise']: 'pad' is no list of"),
    ("DATA: {VISIBLE: [[pad, normalise]]}\n", "sets DATA.VISIBLE to [['pad', 'normalise']]: after pad comes crop"),
])
def test_a_wrong_file_is_refused_by_name(tmp_path, text, complaint):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert complaint in str(error.value) and "mine.yaml" in str(error.value)
    with pytest.raises(ConfigError, match="no configuration file .*agv.yaml; the nearest is .*configs/sysu_agw.yaml"):
        load_config(tmp_path / "sysu_agv.yaml")
    file.write_bytes(b"OUTPUT: \xff")
    for unreadable in (file, tmp_path):
        with pytest.raises(ConfigError, match=f"{unreadable} is not a readable yaml file"):
            load_config(unreadable)


def test_a_file_may_name_what_it_repeats(tmp_path):
    (tmp_path / "a.yaml").write_text("LOSS: {CPM_WEIGHT: &small 0.1, ORTHOGONAL_WEIGHT: *small}\n")
    assert load_config(tmp_path / "a.yaml").LOSS.ORTHOGONAL_WEIGHT == 0.1


def test_numbers_that_yaml_reads_as_text(tmp_path):
    (tmp_path / "a.yaml").write_text("SOLVER:\n  WEIGHT_DECAY: 5e-4\n")
    assert load_config(tmp_path / "a.yaml").SOLVER.WEIGHT_DECAY == 5e-4


def test_a_dump_is_read_back_unchanged():
    cfg = load_config(CONFIGS / "sysu_cmfn_as_drawn.yaml")
    assert differences(from_dump(cfg.dump()), cfg) == []


def test_a_checkpoint_with_what_is_refused_now_is_named_as_its_source():
    dump = get_defaults().dump().replace("SEED: 0", "SEED: -1")
    with pytest.raises(ConfigError, match="the checkpoint's configuration sets SEED to -1; it is 0 at least"):
        from_dump(dump)


# --- A file that stands over another ----------------------------------------------------------------------------------

def write(folder, **texts):
    for name, text in texts.items():
        place = folder / f"{name.replace('__', '/')}.yaml"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)


def test_a_file_stands_over_its_base_and_that_over_its_own(tmp_path):
    write(
        tmp_path, deep__first="SEED: 1\nSOLVER: {EPOCHS: 1, IMAGES: 1, IDENTITIES: 1}\n",
        deep__second="BASE: first.yaml\nSOLVER: {EPOCHS: 2, IMAGES: 2}\n",  # from its own folder on
        third="BASE: deep/second.yaml\nSOLVER: {EPOCHS: 3}\n",
    )
    cfg = load_config(tmp_path / "third.yaml", ["DATA.SPLIT", "4"])
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.IMAGES, cfg.SOLVER.IDENTITIES, cfg.SEED, cfg.DATA.SPLIT) == (3, 2, 1, 1, 4)
    assert load_config(tmp_path / "deep" / "second.yaml").SOLVER.EPOCHS == 2


def test_a_base_may_be_named_by_its_whole_path(tmp_path):
    write(tmp_path, mine=f"BASE: {CONFIGS / 'sysu_agw.yaml'}\nSEED: 7\n")
    assert differences(load_config(tmp_path / "mine.yaml"), load_config(CONFIGS / "sysu_agw.yaml")) == ["SEED: 7, 0"]


def test_a_circle_of_bases_is_refused_by_the_file_that_closes_it(tmp_path):
    write(tmp_path, a="BASE: b.yaml\n", b="BASE: c.yaml\n", c="BASE: b.yaml\n")
    with pytest.raises(ConfigError, match="c.yaml has the BASE b.yaml, whose BASE it is itself"):
        load_config(tmp_path / "a.yaml")


def test_a_circle_through_another_folder_is_refused_too(tmp_path):
    write(tmp_path, a="BASE: deep/b.yaml\n", deep__b="BASE: ../a.yaml\n")
    with pytest.raises(ConfigError, match="b.yaml has the BASE ../a.yaml, whose BASE it is itself"):
        load_config(tmp_path / "a.yaml")


def test_a_mistake_in_a_base_names_the_base(tmp_path):
    write(tmp_path, low="SOLVER: {EPOHCS: 3}\n", high="BASE: low.yaml\n")
    with pytest.raises(ConfigError, match="low.yaml sets SOLVER.EPOHCS, which is not an option"):
        load_config(tmp_path / "high.yaml")


def test_an_option_is_of_the_method_that_is_trained_in_the_end(tmp_path):
    """A base's option that the method above does not read would do nothing."""
    write(tmp_path, low="MODEL: {NAME: agw, NON_LOCAL: half}\n", high="BASE: low.yaml\nMODEL: {NAME: deen}\n")
    with pytest.raises(ConfigError, match="low.yaml sets MODEL.NON_LOCAL, which deen does not read; .* of agw, caj"):
        load_config(tmp_path / "high.yaml")
    write(tmp_path, high="BASE: low.yaml\nMODEL: {NAME: caj}\n")
    assert load_config(tmp_path / "high.yaml").MODEL.NON_LOCAL == "half"


def test_another_method_than_the_files_leaves_what_is_the_files_methods_alone():
    cfg = load_config(CONFIGS / "regdb_cmfn.yaml", ["MODEL.NAME", "deen"])
    assert (cfg.MODEL.NAME, cfg.MODEL.STAGES, cfg.DATA.WIDTH) == ("deen", 3, 144)
    assert cfg.LOSS.DCL_WEIGHTS == OPTIONS["LOSS.DCL_WEIGHTS"].default != load_config(
        CONFIGS / "regdb_cmfn.yaml").LOSS.DCL_WEIGHTS
    with pytest.raises(ConfigError, match="the command line sets LOSS.DCL_WEIGHTS, which deen does not read"):
        load_config(CONFIGS / "regdb_cmfn.yaml", ["MODEL.NAME", "deen", "LOSS.DCL_WEIGHTS", "[[0, 0.0]]"])


def test_a_dump_says_no_base_and_no_short_option():
    keys = {key for key, _ in flatten(load_config(CONFIGS / "sysu_caj.yaml"))}
    assert keys == {*OPTIONS} and not {"BASE", *SHORTHANDS} & keys


# --- Whose option it is -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("key", OWNERS)
def test_every_option_of_methods_is_refused_for_the_others(key):
    value = str(OPTIONS[key].default)
    for method in MODELS:
        words = ["MODEL.NAME", method, key, value]
        if method in OWNERS[key]:
            assert dict(flatten(load_config(overrides=words)))[key] == OPTIONS[key].default
        else:
            with pytest.raises(ConfigError) as error:
                load_config(overrides=words)
            assert str(error.value) == (
                f"the command line sets {key}, which {method} does not read; "
                f"it is an option of {', '.join(sorted(OWNERS[key]))}"
            )


def test_an_unknown_method_is_not_told_whose_an_option_is():
    """What is wrong is its name, which is refused where the network is built."""
    assert load_config(overrides=["MODEL.NAME", "x", "MODEL.BACKBONE", "resnet18"]).MODEL.NAME == "x"


def test_owners_are_those_whose_network_or_total_declares_it():
    declared = {
        (f"{prefix}{key}", method) for prefix, methods in (("MODEL.", MODELS), ("LOSS.", TOTALS))
        for method, owner in methods.items() for key in owner.options
    }
    shapes = {method for method, network in MODELS.items() if network.reads_shapes}
    declared |= {(key, method) for key in ("DATA.SHAPES", "DATA.SHAPE") for method in shapes}
    assert shapes == {"sefel"} and declared == {(key, method) for key, methods in OWNERS.items() for method in methods}
    assert {key for key in OPTIONS if key.startswith(("MODEL.", "LOSS."))} - {*OWNERS} == {
        "MODEL.NAME", "MODEL.PRETRAINED", "MODEL.RECOMPUTE",
    }


def test_two_methods_may_share_a_declaration_but_not_a_name():
    shared, other = option(1, "shared", at_least=0, at_most=9), option(2, "other", at_least=0, at_most=9)

    def method(**options):
        return SimpleNamespace(options={key.replace("__", "."): declared for key, declared in options.items()})

    section = Section()
    owners = collected(section, {"a": method(X=shared, A__Y=other), "b": method(X=shared)}, "LOSS.")
    assert owners == {"LOSS.X": {"a", "b"}, "LOSS.A.Y": {"a"}}
    assert section.X is shared and section.A.Y is other
    with pytest.raises(ValueError, match="b declares LOSS.X, which another method declares otherwise"):
        collected(Section(), {"a": method(X=shared), "b": method(X=other)}, "LOSS.")


@pytest.mark.parametrize("method", RECIPES)
def test_what_is_explained_is_what_the_method_reads(method):
    """With the values of its recipe, which are not those of the other methods."""
    said, cfg = explained(method), load_config(CONFIGS / "methods" / f"{method}.yaml")
    values = dict(flatten(cfg))
    keys = [line.split(":")[0] for line in said.splitlines() if not line.startswith(" ")]
    assert keys == [key for key in OPTIONS if key not in OWNERS or cfg.MODEL.NAME in OWNERS[key]]
    for key in keys:
        assert f"{key}: {values[key]!r}\n    {OPTIONS[key].explanation}. It is {OPTIONS[key].allowed}" in said


def test_the_program_explains_a_method_and_knows_no_other():
    done = run("train.py", "--explain", "mpanet")
    assert done.stdout == explained("mpanet") + "\n" and "LOSS.MPANET.MUTUAL_WEIGHT: 2.5" in done.stdout
    assert "LOSS.TRIPLET" not in done.stdout and "MODEL.NAME: 'mpanet'" in done.stdout
    assert "SOLVER.EPOCHS: 81\n" in explained("agw")
    done = run("train.py", "--explain", "resnet", check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: there is no method 'resnet'; there are {', '.join(RECIPES)}\n"


# --- Short options of the pipelines -----------------------------------------------------------------------------------

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


@pytest.mark.parametrize("words, why", [
    (["DATA.ERASING_AREA", "[0.1, 0.3]"], "DATA.ERASING_AREA, which changes nothing: no view has the step erase"),
    (["SOLVER.OPTIMIZER", "adam", "SOLVER.MOMENTUM", "0.8"],
     "SOLVER.MOMENTUM, which changes nothing: it goes with SOLVER.OPTIMIZER sgd, and that is adam"),
    (["SOLVER.LR_STEPS", "[[5, 0.1]]", "SOLVER.SCHEDULE", "cosine"],
     "SOLVER.LR_STEPS, which changes nothing: it goes with SOLVER.SCHEDULE steps, and that is cosine"),
    (["SOLVER.SCHEDULE", "line", "SOLVER.WARMUP_EPOCHS", "3"],
     "SOLVER.WARMUP_EPOCHS, which changes nothing: it goes with SOLVER.SCHEDULE steps or cosine, and that is line"),
    (["SOLVER.LR_POINTS", "[[0, 0.1]]"], "it goes with SOLVER.SCHEDULE line, and that is steps"),
    (["SOLVER.LOWEST_LR", "1e-6"], "it goes with SOLVER.SCHEDULE cosine, and that is steps"),
])
def test_an_option_that_changes_nothing_is_refused_on_the_command_line(words, why):
    with pytest.raises(ConfigError, match=f"the command line sets .*{re.escape(why)}"):
        load_config(CONFIGS / "sysu_agw.yaml", words)


def test_a_file_may_have_options_that_change_nothing(tmp_path):
    """Such as a whole configuration, written out."""
    cfg = load_config(CONFIGS / "sysu_agw.yaml")
    (tmp_path / "mine.yaml").write_text(as_yaml(cfg))
    assert load_config(tmp_path / "mine.yaml") == cfg


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


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_comes_back_from_its_dump_and_as_a_file(tmp_path, file):
    cfg = load_config(file)
    assert differences(from_dump(cfg.dump()), cfg) == []
    write(tmp_path, mine=as_yaml(cfg))
    assert differences(load_config(tmp_path / "mine.yaml"), cfg) == []
    keys = {key for key, _ in flatten(yaml.safe_load(as_yaml(cfg)))}
    assert keys == {key for key in OPTIONS if key not in OWNERS or cfg.MODEL.NAME in OWNERS[key]}
