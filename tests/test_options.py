"""What is outside an option's declared range is refused by name; what is inside can be built."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thin import all_thin

import test as evaluation
from assembly import embedding
from assembly.recipe import build_loss, build_network, train_loader, weightings_of
from common.options import MOST_EPOCHS, Section, option
from configs.defaults import OPTIONS, OWNERS, get_defaults
from configs.load import DECLARED, ConfigError, flatten, from_dump, load_config, set_option
from configs.shorthands import SHORTHANDS
from data.records import DataError
from data.transforms import EPOCHS, STEPS, OneView, Pipeline, check_pipeline
from losses.build import TOTALS
from models.build import MODELS, class_of
from models.network import MethodError
from models.parts.mfa import ImageSizeError
from train import Trainer
from utils.retrieval.compress import CompressionError
from utils.training.optimizer import build_optimizer, rate_at

pytestmark = pytest.mark.usefixtures("thin")
ANYTHING = (None, True, 3, 2.5, "word", b"bytes", [], ["word"], [True], [["word"]], [[]], {}, {"a": 1}, {1}, 1j)
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=20)
UNPRINTABLE = st.sampled_from(["\0", "a\0b", "two\nlines", "\x1b[0m", "\udcff", "a" * 256, "é" * 128, "a/" * 1500])


def numbers_within(declared, whole_numbers):
    """Numbers that a declaration allows, those at its bounds among them."""
    low, high = max(declared.at_least, declared.above), min(declared.at_most, declared.below)
    if whole_numbers:
        return st.integers(low, high) | st.sampled_from([low, high])
    return st.floats(
        low, high if high < math.inf else 1e6, exclude_min=low == declared.above, exclude_max=high == declared.below,
    )


def numbers_outside(declared, whole_numbers):
    low, high = max(declared.at_least, declared.above), min(declared.at_most, declared.below)
    if whole_numbers:
        return st.integers(max_value=low - 1) | st.integers(min_value=high + 1) | st.sampled_from([-10**30, 10**30])
    outside = [st.floats(max_value=low, exclude_max=low == declared.at_least), st.sampled_from([math.nan, math.inf])]
    if high < math.inf:
        outside.append(st.floats(min_value=high, exclude_min=high == declared.at_most))
    return st.one_of(outside)


def outside(declared):
    """Values that the declaration does not allow, of any type."""
    default = declared.default
    accepted = (int, float) if isinstance(default, float) else (type(default),)
    wrong = [st.sampled_from([
        value for value in ANYTHING if type(value) not in accepted
        and not (isinstance(value, bool) and isinstance(declared.read(value), str))  # TEST.RERANK's true and false
    ])]
    if declared.kind == "views":
        return st.one_of(*wrong, steps_outside().map(lambda step: [["flip", "normalise"], step]), st.sampled_from([
            [], ["normalise"], [[]], [["flip"]], [["normalise", "normalise"]], [["erase", "normalise"]],
            [["normalise", "flip"]], [["pad", "normalise"]], [["normalise"], [["normalise"]]], [3], [None],
        ]))
    if declared.kind == "steps":
        return st.one_of(*wrong, st.sampled_from([[], ["word"], ["crop"], ["erase"], [3], [{"hue": {"until": 3}}]]))
    if declared.one_of:
        other = st.integers() if isinstance(default, int) else TEXTS
        wrong.append(other.filter(lambda value: value not in declared.one_of))
    elif declared.kind == "str":
        wrong += [UNPRINTABLE] + [st.just("")] * (default != "")
        if declared.form:
            wrong.append(st.sampled_from(["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:100", "cpu:1", "meta", " cpu"]))
    elif declared.kind == "words":
        wrong += [TEXTS.map(lambda word: [word, word]), UNPRINTABLE.map(lambda word: [word]),
                  st.sampled_from([[""], [1], [True], [["word"]], [None], "word"])]
    elif declared.kind in ("int", "float"):
        wrong.append(numbers_outside(declared, isinstance(default, int)))
    elif declared.kind == "numbers":
        wrong += [
            numbers_outside(declared, isinstance(default[0], int)).map(lambda x: [*default[:-1], x]),
            st.sampled_from([default[1:], [*default, 0.5], [default], ["a", *default[1:]], [True, *default[1:]]]),
        ]
        if declared.rising:
            wrong.append(st.just(default[::-1]))
    elif declared.kind == "schedule":
        first, epoch = default[0], default[-1][0]
        wrong += [
            numbers_outside(declared, False).map(lambda x: [*default, [epoch + 1, x]]),
            st.integers(max_value=epoch).map(lambda e: [*default, [e, 0.0]]),  # not after the one before
            st.integers(min_value=MOST_EPOCHS + 1).map(lambda e: [*default, [e, 0.0]]),
            st.sampled_from([[first, [epoch, 0.1, 0]], [[0]], [[0.0, 0.1]], [[True, 0.1]], [0, 0.1], [[-1, 0.1]]]),
        ]
        if declared.from_start:
            wrong += [st.just([]), st.integers(1, MOST_EPOCHS).map(lambda e: [[e, 0.1]])]
    return st.one_of(wrong)


def steps_outside():
    """Views with one step that has a number out of its range, or one that it doesn't know."""
    def view(name, number, value):
        step = {name: {number: value}}
        return ["normalise", step] if STEPS[name].normalised else [step, "crop", "normalise"]

    numbers = [(name, key, number) for name, step in STEPS.items() for key, number in (step.numbers | EPOCHS).items()]
    return st.sampled_from(numbers).flatmap(
        lambda which: outside(which[2]).map(lambda value: view(which[0], which[1], value))
    ) | st.sampled_from([*STEPS]).map(lambda name: view(name, "x", 1))


def steps_inside(name):
    """A step with any of its numbers."""
    step = STEPS[name]
    numbers = {key: inside(number) for key, number in step.numbers.items()}
    if step.normalised is not None and name not in ("crop", "resize"):  # those three act in every epoch
        numbers |= {"from": st.integers(0, 9), "until": st.integers(10, MOST_EPOCHS)}
    drawn = st.fixed_dictionaries({}, optional=numbers)
    return drawn.map(lambda numbers: {name: numbers} if numbers else name)


@st.composite
def views_inside(draw, most):
    views = []
    for _ in range(draw(st.integers(1, most))):
        names = ["jitter", "hue", "brightness", "grey", "flip", "pad", "jitter_or_blur", "one_of"]
        before = draw(st.lists(st.sampled_from(names), max_size=3))
        after = draw(st.lists(st.sampled_from(["erase", "exchange", "adapt", "green", "dim"]), max_size=2))
        back = [draw(st.sampled_from(["crop", "resize"]))] if "pad" in before else []
        names = [*before, *back, "normalise", *after]
        views.append([draw(steps_inside(name)) for name in names])
    return views


def inside(declared):
    """Values that the declaration allows."""
    default = declared.default
    if declared.kind == "views":
        return views_inside(1 if isinstance(declared, OneView) else 3)
    if declared.kind == "bool":
        return st.booleans()
    if declared.kind == "steps":
        return st.lists(st.sampled_from(["hue", "channel_cutmix", {"grey": 0.3}]), min_size=1, max_size=3)
    if declared.kind == "words" and declared.one_of:
        return st.lists(st.sampled_from(declared.one_of), unique=True)
    if declared.one_of:
        return st.sampled_from(declared.one_of)
    if declared.kind == "str":
        return st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]) if declared.form else TEXTS | st.just(default)
    if declared.kind == "words":
        return st.lists(TEXTS, unique=True, max_size=3)
    if declared.kind in ("int", "float"):
        return numbers_within(declared, isinstance(default, int))
    if declared.kind == "numbers":
        part = numbers_within(declared, isinstance(default[0], int))
        drawn = st.lists(part, min_size=len(default), max_size=len(default))
        return drawn.map(sorted) if declared.rising else drawn
    epochs = st.lists(st.integers(0, MOST_EPOCHS), unique=True, max_size=4)
    epochs = epochs.map(lambda drawn: sorted({0, *drawn} if declared.from_start else drawn))
    values = numbers_within(declared, False)
    return epochs.flatmap(lambda drawn: st.tuples(*(st.tuples(st.just(e), values) for e in drawn)).map(list))


@pytest.mark.parametrize("key", DECLARED)
def test_what_is_outside_is_refused_with_option_value_allowed_values_and_who_set_it(key, whole):
    declared = DECLARED[key]

    @settings(max_examples=100 if whole else 15)
    @given(outside(declared))
    def refused(value):
        with pytest.raises(ConfigError) as error:
            set_option(cfg, key, value, source="mine.yaml")
        message = str(error.value)
        written = repr(value) if len(repr(value)) <= 300 else repr(value)[:200]
        named = (f"it is {declared.allowed}", f"such as {declared.default!r}", "would do")
        if declared.kind == "views":  # which are written as short as they can be; a step says what it allows
            written = ""
            named = ("; it is ", " where ", " normalise", "is no step", "is no list of steps", "after pad comes crop",
                     "has no x", "acts in every epoch", "which is never")
        assert message.startswith(f"mine.yaml sets {key} to {written}")
        assert any(words in message.removeprefix(f"mine.yaml sets {key} to {written}") for words in named)

    cfg = get_defaults()
    refused()
    assert cfg == get_defaults()


def configured(values):
    """The configuration with all these values, by key."""
    cfg = get_defaults()
    for key, value in values.items():
        set_option(cfg, key, value, source="mine.yaml")
    return cfg


def test_what_is_inside_is_taken_and_comes_back_from_a_dump(whole):
    @settings(max_examples=100 if whole else 5)
    @given(st.fixed_dictionaries({key: inside(declared) for key, declared in OPTIONS.items()}))
    def taken(values):
        cfg = configured(values)
        usual, method = get_defaults(), values["MODEL.NAME"]
        for key, owners in OWNERS.items():  # what the method does not read is not read back
            if method not in owners:
                set_option(cfg, key, OPTIONS[key].default, source="mine.yaml")
        assert from_dump(cfg.dump()) == cfg != usual

    taken()


@pytest.mark.parametrize("key", SHORTHANDS)
def test_any_allowed_value_of_a_short_option_leaves_pipelines(key, whole):
    @settings(max_examples=100 if whole else 10)
    @given(inside(SHORTHANDS[key].option), st.sampled_from(sorted(MODELS)))
    def taken(value, method):
        cfg = load_config(f"configs/methods/{method}.yaml").clone()
        cfg.defrost()
        set_option(cfg, key, value, source="mine.yaml")
        for view in (*cfg.DATA.VISIBLE, *cfg.DATA.INFRARED):
            check_pipeline(view)
        once = cfg.clone()
        set_option(cfg, key, value, source="mine.yaml")
        assert cfg == once  # twice is once

    taken()


# Small members of the ranges, so that a network is built in a tenth of a second; the sizes are the pipelines'.
SMALL = {
    "MODEL.NAME": st.sampled_from([*MODELS]),
    "MODEL.BACKBONE": st.just("resnet18"), "MODEL.PRETRAINED": st.just("none"),
    "MODEL.RECOMPUTE": st.lists(st.sampled_from(["early", "last", "mbue"]), unique=True),
    "DATA.HEIGHT": st.integers(16, 64), "DATA.WIDTH": st.integers(16, 64),
    "MODEL.PMT.DEPTH": st.integers(1, 2), "MODEL.PMT.HEADS": st.integers(1, 2),
    "MODEL.PMT.HEAD_WIDTH": st.integers(1, 8),
    "TEST.WEIGHTINGS": st.lists(st.sampled_from(["equal", "neck", "pooled"]), unique=True),
}


def test_any_configuration_within_the_ranges_can_be_built(whole):
    @settings(max_examples=100 if whole else 4)
    @given(st.fixed_dictionaries({key: SMALL.get(key, inside(declared)) for key, declared in OPTIONS.items()}))
    def built(values):
        cfg = configured(values)
        assert type(build_loss(cfg)) is TOTALS[cfg.MODEL.NAME]
        solver = cfg.SOLVER
        highest = 100 * max(solver.BASE_LR, solver.LOWEST_LR)
        for epoch in (0, 1, solver.EPOCHS - 1):
            assert -1e-9 * highest <= rate_at(solver.BASE_LR, epoch, solver) <= highest * (1 + 1e-9)
        image = np.zeros((cfg.DATA.HEIGHT, cfg.DATA.WIDTH, 3), np.uint8)
        for view in (*cfg.DATA.VISIBLE, *cfg.DATA.INFRARED):
            out = np.full(image.shape, np.nan, np.float32)
            try:
                Pipeline(view)(image, out, epoch=3)
            except DataError as error:
                assert "no such part fits into" in str(error)
            else:
                assert np.isfinite(out).all()
        try:
            weightings_of(class_of(cfg.MODEL), cfg)
            with all_thin():
                model = build_network(cfg, classes=3)
        except (ConfigError, ImageSizeError, MethodError) as error:
            named = ("TEST.WEIGHTINGS", "MODEL.RECOMPUTE", "MODEL.STAGES", "DATA.HEIGHT")
            assert any(f"{key} " in str(error) for key in named)
        else:
            optimizer = build_optimizer(model.parameter_groups(solver.BASE_LR, solver.BACKBONE_LR_FACTOR), solver)
            assert type(optimizer).__name__.lower() == solver.OPTIMIZER
            for group in optimizer.param_groups:
                assert group["weight_decay"] == solver.WEIGHT_DECAY
                assert solver.OPTIMIZER != "sgd" or group["momentum"] == solver.MOMENTUM

    built()


def test_every_option_says_what_it_does_and_numbers_have_bounds():
    assert {key for key, _ in flatten(get_defaults())} == {*OPTIONS}
    for key, declared in OPTIONS.items():
        assert declared.explanation and "  " not in declared.explanation, key
        if declared.kind in ("int", "numbers", "schedule"):
            bounds = (declared.at_least, declared.above, declared.at_most, declared.below)
            assert sum(map(math.isfinite, bounds)) == 2 or declared.one_of, key


def test_what_is_allowed_reads_as_a_phrase():
    section = Section(
        SHARE=option(0.5, "of all", at_least=0, below=1), COUNT=option(3, "of them", at_least=1, at_most=9),
        RATE=option(0.1, "of change", above=0), WORD=option("a", "which", one_of=("a", "b")),
        AREA=option([0.1, 0.2], "from, to", above=0, below=1, rising=True),
        STEPS=option([[0, 1.0]], "when", at_least=0, at_most=2, from_start=True), SWITCH=option(True, "on"),
    )
    assert {name: declared.allowed for name, declared in vars(section).items()} == {
        "SHARE": "0 at least and below 1", "COUNT": "1 at least and 9 at most", "RATE": "above 0 and finite",
        "WORD": "one of a, b", "AREA": "2 numbers, ascending, each above 0 and below 1",
        "STEPS": "[[epoch, value], ...], the epochs ascending from 0 to 100000, each value 0 at least and 2 at most",
        "SWITCH": "true or false",
    }


def test_a_default_out_of_its_own_range_is_an_error_where_it_is_declared():
    with pytest.raises(ValueError, match="the default of 'of all' is 2; it is 0 at least and 1 at most"):
        option(2, "of all", at_least=0, at_most=1)


# What a data set or a network allows besides.

TINY = {
    "DATA.NAME": "synthetic", "DATA.HEIGHT": "32", "DATA.WIDTH": "16", "DATA.WORKERS": "0", "SOLVER.IDENTITIES": "2",
    "SOLVER.IMAGES": "1", "MODEL.BACKBONE": "resnet18", "MODEL.PRETRAINED": "none", "DEVICE": "cpu",
}


def trainer(data, folder, **options):
    options = TINY | {"DATA.ROOT": str(data), "OUTPUT": str(folder)} | options
    cfg = load_config(overrides=[word for pair in options.items() for word in pair])
    return Trainer(cfg, resume=False, device=torch.device("cpu"))


@pytest.mark.parametrize("options, complaint", [
    ({"TEST.PROTOCOLS": "['x']"}, "synthetic has no protocol 'x'; the nearest is 'synthetic/"),
    ({"TEST.PROTOCOLS": "['all', 'x']"}, "synthetic has no protocol 'x'; the nearest is 'synthetic/"),
    ({"TEST.WEIGHTINGS": "['x']"}, "TEST.WEIGHTINGS has 'x'; cmfn has equal, neck"),
    ({"MODEL.NAME": "x"}, "MODEL.NAME is 'x'; known are cmfn, "),
    ({"DATA.NAME": "x"}, "DATA.NAME is 'x'; known are sysu, "),
    ({"SOLVER.VALIDATION_IDS": "4"}, "SOLVER.VALIDATION_IDS is 4, and the training set has 4 identities"),
    ({"SOLVER.VALIDATION_IDS": "1", "SOLVER.CHOOSE_BEST_ON_TEST_DATA": "true"}, "chosen by one of them"),
    ({"SOLVER.SYNC_BN": "true"}, "SOLVER.SYNC_BN works on CUDA devices only"),
])
def test_what_doesnt_fit_data_or_network_is_refused_before_any_work(shared_data, tmp_path, options, complaint):
    with pytest.raises((ConfigError, DataError, MethodError)) as error:
        trainer(shared_data, tmp_path / "run", **options, **{"DATA.CACHE": str(tmp_path / "cache")})
    assert complaint in str(error.value) and not (tmp_path / "cache").exists()


def test_all_is_a_protocol_and_the_longest_training_starts_at_once(shared_data, tmp_path):
    options = {"TEST.PROTOCOLS": "['all']", "SOLVER.EPOCHS": str(MOST_EPOCHS)}
    training = trainer(shared_data, tmp_path / "run", **options)
    last = training.batches.length(7) - 1
    loader = train_loader(training.batches, training.cfg, 7, last, training.device)
    positions = iter(loader.sampler)
    assert [next(positions), next(positions)] == [(7, last), (8, 0)]


def test_a_loader_asks_every_epoch_for_its_length(shared_data, tmp_path):
    options = {"SOLVER.SAMPLER": "chunks", "SOLVER.EPOCHS": "40"}
    training = trainer(shared_data, tmp_path / "run", **options)
    positions = [*train_loader(training.batches, training.cfg, 0, 0, training.device).sampler]
    lengths = [training.batches.length(epoch) for epoch in range(40)]
    assert positions == [(epoch, step) for epoch in range(40) for step in range(lengths[epoch])]
    assert len({*lengths}) > 1 and [training.batches.updates(epoch) for epoch in range(40)] == lengths


def test_a_compression_to_more_numbers_than_there_are_is_refused_before_embedding(shared_data, tmp_path, monkeypatch):
    training = trainer(shared_data, tmp_path / "run", **{"EMBEDDING.DIM": "10000"})
    for module in (evaluation, embedding):
        monkeypatch.setattr(module, "embed_records", None)
    with pytest.raises(CompressionError, match="EMBEDDING.DIM is 10000; .* allow 1 to"):
        evaluation.evaluate(
            training.model, training.benchmark, [], training.cfg, {}, training.device, training.ranks, per_query=False,
        )
