"""How a configuration is put together: overrides, files over files, whose an option is, and what is refused."""

import re
from types import SimpleNamespace

import pytest
from configurations import CONFIGS, IMAGENET, erasing, names_of, one_pipeline, write
from programs import run

from common.options import Section, option
from configs.defaults import OPTIONS, OWNERS, collected, get_defaults
from configs.load import ConfigError, as_yaml, differences, explained, flatten, from_dump, load_config
from configs.shorthands import SHORTHANDS
from losses.build import TOTALS
from models.build import MODELS

RECIPES = sorted(path.stem for path in (CONFIGS / "methods").glob("*.yaml"))


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


def test_a_file_may_have_options_that_change_nothing(tmp_path):
    """Such as a whole configuration, written out."""
    cfg = load_config(CONFIGS / "sysu_agw.yaml")
    (tmp_path / "mine.yaml").write_text(as_yaml(cfg))
    assert load_config(tmp_path / "mine.yaml") == cfg


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


# A file that stands over another


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


# Whose option it is


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
