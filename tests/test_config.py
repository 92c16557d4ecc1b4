from pathlib import Path

import pytest

from configs.defaults import get_defaults
from configs.load import ConfigError, differences, flatten, from_dump, load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_file_loads_and_opens_with_its_command(file):
    load_config(file)
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any("train.py --config" in line or "quickstart.sh" in line for line in head)


@pytest.mark.parametrize("name, height, width, jitter, area, stages", [
    ("sysu", 384, 192, True, [0.2, 0.8], 4),
    ("regdb", 384, 144, False, [0.02, 0.4], 3),
    ("llcm", 384, 144, False, [0.02, 0.4], 4),
])
def test_the_papers_recipe(name, height, width, jitter, area, stages):
    cfg = load_config(CONFIGS / f"{name}_cmfn.yaml")
    assert (cfg.DATA.HEIGHT, cfg.DATA.WIDTH) == (height, width)
    assert (cfg.DATA.JITTER, cfg.DATA.ERASING_AREA, cfg.MODEL.STAGES) == (jitter, area, stages)
    assert (cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES, cfg.SOLVER.EPOCHS) == (6, 4, 151)
    assert (cfg.MODEL.BACKBONE, cfg.MODEL.PRETRAINED) == ("resnet50", "imagenet")
    loss, solver = cfg.LOSS, cfg.SOLVER
    assert (loss.TRIPLET, loss.TRIPLET_WEIGHT, loss.TRIPLET_MARGIN) == ("batch_hard", 1.0, 0.3)
    assert (loss.CPM_WEIGHT, loss.CPM_MARGIN, loss.ORTHOGONAL_WEIGHT, loss.DIVERGENCE_WEIGHT) == (0.8, 0.2, 0.01, 0)
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.BASE_LR, solver.BACKBONE_LR_FACTOR) == (0.9, 5e-4, 0.1, 0.1)
    assert (cfg.DATA.GREY, cfg.DATA.ERASING, cfg.DATA.EXCHANGE, cfg.TEST.FLIP) == (0.5, 0.5, "none", True)


@pytest.mark.parametrize("method, size, batch, epochs, steps, flip", [
    ("base", (288, 144), (8, 4), 81, [[20, 0.1], [50, 0.01]], False),
    ("agw", (288, 144), (8, 4), 81, [[20, 0.1], [50, 0.01]], False),
    ("caj", (288, 144), (8, 4), 100, [[20, 0.1], [50, 0.01]], True),
    ("deen", (384, 144), (6, 4), 151, [[20, 0.1], [80, 0.01]], True),
])
@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_the_compared_methods_recipes(name, method, size, batch, epochs, steps, flip):
    cfg = load_config(CONFIGS / f"{name}_{method}.yaml")
    solver = cfg.SOLVER
    assert (cfg.DATA.NAME, solver.EVAL_PERIOD) == (name, 1 if method == "deen" else 2)
    assert ((cfg.DATA.HEIGHT, cfg.DATA.WIDTH), (solver.IDENTITIES, solver.IMAGES)) == (size, batch)
    assert (solver.EPOCHS, solver.LR_STEPS, solver.WARMUP_EPOCHS, cfg.TEST.FLIP) == (epochs, steps, 10, flip)
    assert (solver.BASE_LR, solver.BACKBONE_LR_FACTOR, solver.WEIGHT_DECAY) == (0.1, 0.1, 5e-4)
    assert not cfg.DATA.JITTER and cfg.DATA.GREY == (0.5 if method == "deen" else 0)
    erasing = (cfg.DATA.ERASING, cfg.DATA.ERASING_AREA, cfg.DATA.ERASING_FILL)
    small, large, imagenet = [0.02, 0.4], [0.2, 0.8], [0.485, 0.456, 0.406]
    of_agw = (0.5, small, [0.0] * 3) if name == "llcm" else (0.0, large, imagenet)
    assert erasing == {
        "base": of_agw,
        "agw": of_agw,
        "caj": (0.5, small, [0.4914, 0.4822, 0.4465]),
        "deen": (0.5, large if name == "sysu" else small, imagenet),
    }[method]
    # Network, losses and showings of images: these options differ from CMFN's, which are the defaults, and no others.
    expected = {
        "base": {"MODEL.NAME": "agw", "MODEL.NON_LOCAL": "none"},
        "agw": {"MODEL.NAME": "agw", "MODEL.POOL": "gem", "LOSS.TRIPLET": "weighted"},
        "caj": {"MODEL.NAME": "caj", "MODEL.POOL": "gem", "LOSS.TRIPLET": "squared_difference",
                "DATA.EXCHANGE": "channels"},
        "deen": {"MODEL.NAME": "deen"} | ({"MODEL.STAGES": 3} if name == "regdb" else {}),
    }[method]
    defaults = dict(flatten(get_defaults()))
    assert expected | {"LOSS.DCL_WEIGHTS": [[0, 0.0]]} == {
        key: value for key, value in flatten(cfg)
        if value != defaults[key] and key.startswith(("MODEL.", "LOSS.", "DATA.EXCHANGE"))
    }


@pytest.mark.parametrize("method", ["base", "agw", "caj", "deen"])
def test_a_small_config_has_the_methods_own_network_losses_and_augmentation(method):
    small, whole = (load_config(CONFIGS / f"{name}_{method}.yaml") for name in ("quickstart", "sysu"))
    kept = ("MODEL.NAME", "MODEL.POOL", "MODEL.NON_LOCAL", "MODEL.MFA", "MODEL.DEE", "LOSS.TRIPLET:", "LOSS.DCL",
            "TEST", "LOSS.DIVERGENCE", "DATA.GREY", "DATA.JITTER", "DATA.EXCHANGE", "DATA.ERASING_FILL")
    assert not [line for line in differences(small, whole) if line.startswith(kept)]
    schedule = load_config(CONFIGS / "quickstart.yaml", ["SOLVER.EPOCHS", "6", "SOLVER.LR_STEPS", "[[5, 0.1]]"]).SOLVER
    assert small.SOLVER == schedule and small.DATA.NAME == "synthetic" and small.MODEL.STAGES == 4


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
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BASE_LR, cfg.DATA.JITTER) == (3, 1.0, False)
    assert (cfg.DATA.ERASING_AREA, cfg.OUTPUT) == ([0.1, 0.2], "runs/a b")


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
])
def test_a_wrong_override_is_refused_with_the_mend(overrides, complaint):
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
])
def test_a_wrong_file_is_refused_by_name(tmp_path, text, complaint):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert complaint in str(error.value) and "mine.yaml" in str(error.value)
    with pytest.raises(ConfigError, match="there is no configuration file .*absent.yaml; there are .*sysu_cmfn.yaml"):
        load_config(tmp_path / "absent.yaml")
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
