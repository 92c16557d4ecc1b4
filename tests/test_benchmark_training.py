"""The literal network computes what the fast one does, and the benchmark of a training step prints its table."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from batches import two_streams
from programs import started_here
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark_training as benchmark

from assembly.literal_network import LITERAL, make_literal, make_literal_optimizer
from assembly.recipe import build_loss
from configs.load import ConfigError, load_config
from models.build import build_model
from utils.training.optimizer import build_optimizer

pytestmark = pytest.mark.usefixtures("thin")
SMALL = ["--quick", "--steps", "1", "--images", "2", "--classes", "5", "DATA.WIDTH", "32"]


def fast_and_literal(*overrides):
    """(model, criterion) twice, in float64 with equal weights."""
    cfg = load_config(overrides=["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none", *overrides])
    model = build_model(cfg.MODEL, classes=5).double().train()
    for mfa in model.mfa:  # a zero-initialised way out would hide its block
        for block in (mfa.channel, mfa.position):
            nn.init.ones_(block.out[1].weight)
    return (model, build_loss(cfg)), (make_literal(copy.deepcopy(model)), make_literal(build_loss(cfg)))


def one_step(model, criterion, size):
    """Outputs, loss terms, running statistics and gradients of one step, by name."""
    torch.manual_seed(1)  # dropout and drop path draw alike
    visible, infrared = torch.randn(2, 4, 3, *size, dtype=torch.float64)
    output = model(two_streams(visible, infrared, [0, 0, 3, 3]))
    terms = criterion(output, epoch=0)
    sum(terms.values()).backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {**output.entries, **terms, **model.state_dict()}, gradients


@pytest.mark.parametrize("size, overrides", [
    ((64, 32), []),     # MBUE's map is 4x2: less than a window
    ((160, 48), []),    # 10x3: two windows, padded, and an odd width for the wavelets
    ((64, 32), ["MODEL.MFA.POSITIONS", "all", "MODEL.HCE.THIRD", "hce", "MODEL.MBUE.TOKEN_LAYOUT", "aligned"]),
], ids=["4x2", "10x3", "as drawn"])
def test_literal_and_fast_network_agree(size, overrides):
    fast, literal = fast_and_literal(*overrides)
    (expected, expected_gradients), (values, gradients) = one_step(*literal, size), one_step(*fast, size)
    assert values.keys() == expected.keys() and gradients.keys() == expected_gradients.keys()
    for name in expected:
        torch.testing.assert_close(values[name], expected[name], rtol=1e-9, atol=1e-9, msg=name)
    # A bias before a batch norm has gradient 0 but for rounding, so small ones are compared with the largest.
    largest = max(g.abs().max() for g in expected_gradients.values())
    for name, gradient in gradients.items():
        difference, norm = (gradient - expected_gradients[name]).norm(), expected_gradients[name].norm()
        assert difference <= 1e-9 * norm + 1e-12 * largest, f"{name}: {difference} beside {norm}"


def test_every_literal_part_takes_the_place_of_the_fast_one():
    fast, literal = (
        {type(part) for module in pair for part in module.modules()} for pair in fast_and_literal()
    )
    assert set(LITERAL) <= fast and not set(LITERAL) & literal
    assert set(LITERAL.values()) <= literal


def test_the_literal_optimiser_updates_alike():
    weights = []
    for change in (lambda optimizer: optimizer, make_literal_optimizer):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = change(build_optimizer([{"params": [*model.parameters()]}], load_config().SOLVER))
        for _ in range(2):
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        weights.append(model.weight.detach())
    torch.testing.assert_close(*weights)


def test_nothing_to_make_literal_is_an_error():
    with pytest.raises(ValueError, match="Linear has no part"):
        make_literal(nn.Linear(2, 2))


def test_each_setting_has_its_references_once():
    assert benchmark.rows_of(["float32", "float32+recompute", "bfloat16+channels_last"], literal=True) == [
        ("plain", "float32"), ("plain", "bfloat16+channels_last"), ("literal", "float32"), ("literal", "bfloat16"),
        ("method", "float32"), ("method", "float32+recompute"), ("method", "bfloat16+channels_last"),
    ]


def test_the_table_of_known_times():
    def measured(total, operations):
        seconds = dict(zip(benchmark.PHASES, [0.0, total / 4, 0.0, total / 2, total / 4]))
        return {"seconds": seconds, "peak": 5e9, "operations": operations}

    rows = {("plain", "float32"): measured(2, 10), ("literal", "float32"): measured(24, 40),
            ("method", "float32"): measured(8, 32),
            ("method", "float32+compile"): {"error": "no compiler"}}
    head, *lines = benchmark.table_head(), *(benchmark.table_line(row, row[0].upper(), rows, images=16) for row in rows)
    assert head.split()[2:] == [
        "step", "data", "forward", "losses", "backward", "optimiser", "images/s", "peak", "GB", "x", "plain",
        "x", "its", "ops", "literal", "/",
    ]
    plain, literal, method, compiled = lines
    assert plain.split()[-4:] == ["5.00", "1.00", "1.00", "-"]
    assert literal.split()[-3:] == ["12.00", "3.00", "-"]
    assert method.split()[1:] == [
        "float32", "8000.0", "0.0", "2000.0", "0.0", "4000.0", "2000.0", "2.0", "5.00", "4.00", "1.25", "3.00",
    ]
    assert compiled.endswith("not compiled here: no compiler")
    assert len(head) == len(plain) == len(literal) == len(method)


def test_settings_are_read_in_one_order():
    assert benchmark.setting_of("bfloat16+compile+channels_last") == "bfloat16+channels_last+compile"
    options = benchmark.parse(["--compile", "--settings", "float32", "MODEL.STAGES", "3"])
    assert options.settings == ["float32", "float32+compile"]
    assert options.overrides == ["MODEL.STAGES", "3"]


@pytest.mark.parametrize("setting", ["double", "float32+last", ""])
def test_an_unknown_setting_is_refused(setting, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(["--settings", setting])
    assert f"{setting!r} is no setting" in capsys.readouterr().err


@pytest.mark.parametrize("network, setting", benchmark.rows_of(benchmark.parse(["--quick"]).settings, literal=True))
def test_every_row_of_the_quick_run_is_measured(network, setting):
    options = benchmark.parse([*SMALL, "--device", "cpu"])
    result = benchmark.measure(network, setting, options)
    assert list(result["seconds"]) == ["data", "forward", "losses", "backward", "optimiser"]
    assert all(seconds >= 0 for seconds in result["seconds"].values())
    assert result["seconds"]["forward"] > 0 and result["seconds"]["backward"] > 0


@pytest.mark.long
def test_the_quick_run_prints_its_table(capsys):
    status = benchmark.run(["--quick", "--device", "cpu", "--settings", "float32"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    head, *table = printed.split("\n\n")[1].splitlines()
    assert head == benchmark.table_head()
    assert [line[:60].split() for line in table] == [
        ["plain", "trunk", "float32"], ["CMFN,", "literal", "float32"], ["CMFN", "float32"],
    ]
    *_, images_per_second, peak, over_plain, over_operations, literal_over = map(float, table[-1].split()[2:])
    assert images_per_second > 0 and 0.1 < peak < 4 and over_plain > 1 and over_operations > 0 and literal_over > 0


def test_a_failing_row_says_why(monkeypatch):
    size = ["DATA.HEIGHT", "36", "DATA.WIDTH", "36", "MODEL.BACKBONE", "resnet18"]
    monkeypatch.setattr(subprocess, "run", started_here)
    error = benchmark.measured_apart(("method", "float32"), size)["error"]
    assert error.startswith("ImageSizeError: images of 36x36 give stage 1 a map of 9x9")


def test_a_wrong_option_ends_the_run_before_anything_is_measured():
    with pytest.raises(ConfigError, match="MODEL.STAGES"):
        benchmark.run(["--quick", "MODEL.STAGE", "3"])
    with pytest.raises(ConfigError, match="only CMFN has a literal network"):
        benchmark.run(["--quick", "--profile", "literal", "MODEL.NAME", "deen"])


def test_the_profile_lists_operators():
    options = benchmark.parse([*SMALL, "--device", "cpu"])
    title, head, *lines = benchmark.top_operators("method", "float32", options, lines=5).splitlines()
    assert title.startswith("CMFN, float32: ") and head.split() == ["ms", "%", "calls", "operator"]
    milliseconds = [float(line.split()[0]) for line in lines]
    assert len(lines) == 5 and milliseconds == sorted(milliseconds, reverse=True)
    assert any("convolution" in line for line in lines)
