"""Every parameter and buffer of every network starts as the method's pages say (docs/method.md,
docs/compared_methods.md), and by PyTorch's default for its layer where they say nothing."""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torchvision
from thin import all_thin, small_trunk
from torch import Tensor

from assembly.recipe import build_network
from configs.load import load_config
from models.parts.backbone import Backbone

ROOT = Path(__file__).resolve().parent.parent


class Start(NamedTuple):
    """A constant; uniform within ±`spread`; or normal around `center` with `spread` as its standard deviation."""

    shape: str
    center: float | Tensor = 0.0
    spread: float = 0.0


# From the weight of a layer to how its weight, or its bias, starts.

def default(weight: Tensor) -> Start:
    """PyTorch's of convolutions and linear layers."""
    return Start("uniform", spread=weight[0].numel() ** -0.5)


def kaiming_fan_in(weight: Tensor) -> Start:
    return Start("normal", spread=(2 / weight[0].numel()) ** 0.5)


def kaiming_fan_out(weight: Tensor) -> Start:
    return Start("normal", spread=(2 / (len(weight) * weight[0, 0].numel())) ** 0.5)


def xavier(weight: Tensor) -> Start:
    return Start("uniform", spread=(6 / sum(weight.shape)) ** 0.5)


def normal(center: float, spread: float):
    return lambda weight: Start("normal", center, spread)


def constant(value: float | Tensor):
    return lambda weight: Start("constant", value)


def offsets(window: int) -> Tensor:
    """(window², window²): for each pair of positions, its offset's place among (2 · window - 1)²."""
    places = [(y, x) for y in range(window) for x in range(window)]
    width = 2 * window - 1
    return torch.tensor([
        [(y - v + window - 1) * width + x - u + window - 1 for v, u in places] for y, x in places
    ])


RESNET = r"(backbone\.\w+_stem(\.stem|\.stages\.\d\.\d)?|(backbone\.)?stages\.\d(\.blocks)?\.\d|stem|\w+_stems\.\d)\."
NON_LOCAL = r"(mfa\.\d\.(channel|position)|(backbone\.)?stages\.\d\.non_local\.\d)\."
SHAPE_ERASURE = r"(student|teacher)\."
BRANCH = r"mbue\.branch\d\."
BRANCH_NORM = BRANCH + (
    r"(local_block\.norm|global_block\.(attention|mlp)_norm|compress_\w+\.1|"
    r"fusion\.(norm|align_\w+\.1|enhance\.[14]|combine\.(out_)?norm|context\.1))\."
)
RULES = {
    # torchvision's ResNet
    RESNET + r"(0|conv\d|downsample\.0)\.weight": kaiming_fan_out,
    RESNET + r"(1|bn\d|downsample\.1)\.weight": constant(1),
    RESNET + r"(1|bn\d|downsample\.1)\.bias": constant(0),
    # HCE: pairs of a convolution without bias and a batch norm
    r"context\..+\.0\.weight": default,
    r"context\..+\.1\.weight": constant(1),
    r"context\..+\.1\.bias": constant(0),
    # MFA and AGW's blocks, from the plain backbone
    NON_LOCAL + r"(g|theta|phi|out\.0)\.(weight|bias)": default,
    NON_LOCAL + r"out\.1\.(weight|bias)": constant(0),
    # MBUE
    BRANCH_NORM + "weight": constant(1),
    BRANCH_NORM + "bias": constant(0),
    BRANCH + r"local_block\.(depthwise|pointwise)\.(weight|bias)": default,
    BRANCH + r"global_block\.(attention\.(qkv|project)|mlp\.[02])\.(weight|bias)": default,
    BRANCH + r"global_block\.attention\.bias_table": normal(0, 0.02),
    BRANCH + r"global_block\.attention\.bias_index": constant(offsets(8)),
    BRANCH + r"compress_\w+\.0\.weight": default,
    BRANCH + r"(expand|context_path)\.weight": kaiming_fan_in,
    BRANCH + r"expand\.bias": default,
    # CSC-CMA
    BRANCH + r"fusion\.(align_\w+\.[03]|cross\.\w+|enhance\.3|context\.0)\.(weight|bias)": default,
    BRANCH + r"fusion\.(spatial\.conv|channel\.\w+|combine\.(mix|expand|reduce))\.weight": default,
    BRANCH + r"fusion\.mix": constant(1 / 3),
    BRANCH + r"fusion\.enhance\.0\.(base|wavelet)\.weight": default,
    BRANCH + r"fusion\.enhance\.0\.base_scale": constant(1),
    BRANCH + r"fusion\.enhance\.0\.wavelet_scale": constant(0.1),
    # DEE
    r"dee\.branch\d\.(dilated\.\d|expand)\.weight": kaiming_fan_in,
    r"dee\.branch\d\.expand\.bias": default,
    # Head
    r"head\.neck\.weight": normal(1, 0.01),
    r"head\.neck\.bias": constant(0),
    r"head\.classifier\.weight": normal(0, 0.001),
    r"head\.pool\.p": constant(3),
    # MPANet
    r"alleviate\d\.(reduce|expand)\.weight": kaiming_fan_out,
    r"masks\.weight": default,
    r"masks\.bias": constant(0),
    r"neck\.weight": constant(1),
    r"neck\.bias": constant(0),
    r"((visible_|infrared_)?classifier\.weight|(visible|infrared)_mean)": default,
    # PMT
    r"trunk\.(cls_token|pos_embed)": normal(0, 0.02),
    r"trunk\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc\d)\.weight": normal(0, 0.02),
    r"trunk\.patch_embed\.proj\.weight": kaiming_fan_out,
    r"trunk\.(blocks\.\d+\.norm\d|norm)\.weight": constant(1),
    r"trunk\..+\.bias": constant(0),
    r"identity_classifier\.weight": normal(0, 0.001),
    # MSCMNet
    r"mimb\.\d\.(reduce|side|expand|mlp\.[02])\.(weight|bias)": default,
    r"mimb\.\d\.(norm|side_norm|mlp_norm)\.weight": constant(1),
    r"mimb\.\d\.((norm|side_norm|mlp_norm)|attention\.(in|out)_proj)\.bias": constant(0),
    r"mimb\.\d\.attention\.in_proj\.weight": xavier,
    r"mimb\.\d\.attention\.out_proj\.weight": default,
    # MCJA
    r"stages\.\d\.mda\.\d\.(masks|mix)\.(weight|bias)": default,
    r"stages\.\d\.mda\.\d\.(gate_norm\.weight)": constant(1),
    r"stages\.\d\.mda\.\d\.(gate_norm\.bias|norm\.(weight|bias))": constant(0),
    # DNS
    r"shift\d\.(reduce\.0|rows|columns)\.weight": default,
    r"(shift\d\.reduce\.1|css\.mlp\.0)\.weight": constant(1),
    r"(shift\d\.reduce\.1|css\.mlp\.0)\.bias": constant(0),
    r"css\.mlp\.[14]\.(weight|bias)": default,
    # SEFEL
    SHAPE_ERASURE + r"(stems\.\w+\.convolution|stages\.\d\.\d\.(convolutions\.\d|shortcut))\.weight": kaiming_fan_out,
    SHAPE_ERASURE + r"(stems\.\w+|stages\.\d\.\d)\.(norms(\.\d)?|shortcut_norms)\.\w+\.weight": constant(1),
    SHAPE_ERASURE + r"((stems\.\w+|stages\.\d\.\d)\.(norms(\.\d)?|shortcut_norms)|necks)\.\w+\.bias": constant(0),
    SHAPE_ERASURE + r"necks\.\w+\.weight": normal(1, 0.01),
    SHAPE_ERASURE + r"(shape_)?classifier\.weight": normal(0, 0.001),
    SHAPE_ERASURE + r"(shape_)?projection": lambda weight: Start("normal", spread=weight.shape[1] ** -0.5),
    # MCLNet
    r"adversary\.layers\.\d\.(weight|bias)": default,
    r"adversary\.norm\.weight": constant(1),
    r"adversary\.norm\.bias": constant(0),
    r"(identity|camera)_centers\.points": normal(0, 1),
    # What every batch norm counts
    r".+\.running_mean": constant(0),
    r".+\.running_var": constant(1),
    r".+\.num_batches_tracked": constant(0),
}

# Of standardised values z, uniform within ±1 or of deviation 1: the mean and the variance of z² and of whether |z| is
# below a half (uniform) or one (normal).
EXPECTED = {"uniform": (1 / 3, 4 / 45, 0.5, 0.25), "normal": (1.0, 2.0, 0.6827, 0.6827 * 0.3173)}
SIGMAS = 6  # chance goes beyond it once in 500 million


class Sums(NamedTuple):
    """Of standardised values; those of several tensors add up."""

    number: int
    values: float
    squares: float
    inner: int  # how many are near the center

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*map(sum, zip(self, other)))


def sums_of(values: Tensor, start: Start) -> Sums:
    z = (values - start.center) / start.spread
    inner = z.abs() < (0.5 if start.shape == "uniform" else 1)
    return Sums(z.numel(), z.sum().item(), z.square().sum().item(), inner.count_nonzero().item())


def misfits(sums: Sums, shape: str) -> list[str]:
    """In what the values differ from the shape by more than chance: mean, spread, and the shape itself."""
    n, (square, square_variance, inner, inner_variance) = sums.number, EXPECTED[shape]
    measured = {
        "mean": (sums.values, 0, square),
        "mean square": (sums.squares, square, square_variance),
        "share near the center": (sums.inner, inner, inner_variance),
    }
    return [
        f"{what} of {n} standardised values is {total / n:.4f}, not {expected:.4f} ({shape})"
        for what, (total, expected, variance) in measured.items()
        if abs(total / n - expected) > SIGMAS * (variance / n) ** 0.5
    ]


def is_outside(values: Tensor, start: Start) -> bool:
    """Whether a constant is another one, or a value beyond its uniform start's bounds."""
    if start.shape == "constant":
        return not (values == start.center).all()
    return start.shape == "uniform" and values.abs().max().item() > start.spread * (1 + 1e-6)


def rules_of(name: str) -> list[str]:
    return [pattern for pattern in RULES if re.fullmatch(pattern, name)]


def start_of(name: str, state: dict[str, Tensor]) -> Start:
    rule, = rules_of(name)
    return RULES[rule](state.get(name.rpartition(".")[0] + ".weight", state[name]))


@pytest.fixture(scope="module")
def networks(whole) -> dict[str, dict[str, Tensor]]:
    """By configuration: parameters and buffers of the untrained network.

    They are thin, and all but the first small; the same rules are asked for. Those of SYSU-MM01 have their full width
    where the tests run whole.
    """
    torch.manual_seed(0)
    files = sorted((ROOT / "configs").glob("*.yaml"), key=lambda file: (file.stem != "sysu_cmfn", file.stem))
    asked = [(file.stem, []) for file in files] + [
        ("sysu_agw", ["MODEL.NON_LOCAL", "half", "MODEL.POOL", "gem_learned"]),
        ("regdb_cmfn", ["MODEL.CSC_CMA.ENABLED", "false"]),
    ]
    found, built = {}, set()
    for name, options in asked:
        file = ROOT / "configs" / f"{name}.yaml"
        wide = whole and name.startswith("sysu") and not options
        small = small_trunk(load_config(file).MODEL.NAME) if found and not wide else []
        options = ["MODEL.PRETRAINED", "none", *small, *options]
        cfg = load_config(file, options)
        model_options = cfg.MODEL
        if str(model_options) not in built:
            built.add(str(model_options))
            with contextlib.nullcontext() if wide else all_thin():
                model = build_network(cfg, classes=395)
            parts = (*model.named_parameters(), *model.named_buffers())
            found[" ".join([name, *options])] = {part: values.detach() for part, values in parts}
    return found


def test_every_name_of_every_network_has_one_rule_and_every_rule_a_name(networks):
    names = {name for state in networks.values() for name in state}
    assert [name for name in names if len(rules_of(name)) != 1] == []
    assert set(RULES) == {rule for name in names for rule in rules_of(name)}


def test_every_network_starts_as_its_rules_say(networks):
    wrong, together = [], {}
    for network, state in networks.items():
        for name, values in state.items():
            start = start_of(name, state)
            if is_outside(values, start):
                wrong.append(f"{network}: {name} starts outside {start}")
            elif start.shape != "constant":
                sums = sums_of(values, start)
                wrong += [f"{network}: {name}: {misfit}" for misfit in misfits(sums, start.shape)]
                kind = re.sub(r"\d+", "N", name), start.shape
                together[kind] = together.get(kind, Sums(0, 0, 0, 0)) + sums
    assert wrong == []
    # A tensor of one number tells little; those of the same name in all blocks and networks tell more.
    assert [(kind, misfits(sums, kind[1])) for kind, sums in together.items() if misfits(sums, kind[1])] == []
    assert min(sums.number for sums in together.values()) >= 30


def fits(values: Tensor, start: Start) -> bool:
    if start.shape == "constant" or is_outside(values, start):
        return not is_outside(values, start)
    return not misfits(sums_of(values, start), start.shape)


def test_another_start_is_seen():
    even, bell = torch.rand(20_000) * 2 - 1, torch.randn(20_000)
    uniform, gauss = Start("uniform", spread=1.0), Start("normal", spread=1.0)
    assert fits(even, uniform) and fits(bell, gauss) and fits(torch.ones(3), Start("constant", 1))
    for factor in (0.9, 1.1):
        assert not fits(factor * even, uniform) and not fits(factor * bell, gauss)
    assert not fits(even * 0.9 + 0.1, uniform) and not fits(bell + 0.1, gauss)
    assert not fits(3 ** 0.5 * even, gauss)  # of the same deviation
    assert not fits((bell / 3 ** 0.5).clamp(-1, 1), uniform)
    assert not fits(torch.zeros(30), uniform) and not fits(torch.zeros(30), Start("constant", 1))


def test_stems_and_stages_start_from_the_pretrained_file(tmp_path, thin):
    source = torchvision.models.get_model("resnet18", weights=None).state_dict()
    source = {name: torch.randn_like(x) if x.is_floating_point() else x + 7 for name, x in source.items()}
    torch.save(source, tmp_path / "resnet18.pth")
    state = Backbone("resnet18", pretrained=str(tmp_path / "resnet18.pth")).state_dict()
    theirs = {}
    for name in state:
        renamed = re.sub(r"^\w+_stem\.1", "bn1", re.sub(r"^\w+_stem\.0", "conv1", name))
        theirs[name] = re.sub(r"^stages\.(\d)", lambda found: f"layer{int(found[1]) + 1}", renamed)
    assert {*theirs.values()} == {name for name in source if not name.startswith("fc.")}
    for name, values in state.items():
        assert torch.equal(values, source[theirs[name]]), name
