"""The configurations that come with the code: they load, and have the recipes of their papers."""

import pytest
import yaml
from configurations import CONFIGS, IMAGENET, LARGE, SMALL, erasing, names_of, one_pipeline, step_of, write

from common.options import MOST_EPOCHS
from configs.defaults import OPTIONS, OWNERS, get_defaults
from configs.load import as_yaml, differences, flatten, from_dump, load_config
from data.transforms import read_step
from models.build import MODELS


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
    assert (solver.WEIGHT_DECAY, solver.PRECISION, cfg.TEST.FLIP) == (5e-4, "float16", False)
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


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_comes_back_from_its_dump_and_as_a_file(tmp_path, file):
    cfg = load_config(file)
    assert differences(from_dump(cfg.dump()), cfg) == []
    write(tmp_path, mine=as_yaml(cfg))
    assert differences(load_config(tmp_path / "mine.yaml"), cfg) == []
    keys = {key for key, _ in flatten(yaml.safe_load(as_yaml(cfg)))}
    assert keys == {key for key in OPTIONS if key not in OWNERS or cfg.MODEL.NAME in OWNERS[key]}
