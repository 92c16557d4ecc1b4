"""What tests do with the reference numbers in tests/data; the rules of their making are those of assembly/parity.py."""

import functools
import json

import numpy as np
import pytest
import torch
from shared import Shared
from torch import Tensor, nn

from assembly.parity import DATA, image, nothing_drawn, relative, still, weight  # noqa: F401 - image is for the tests
from configs.defaults import get_defaults
from models.authors_checkpoint import authors_name, from_authors
from models.build import build_model

CLASSES = {"sysu": 395, "regdb": 206}
WIDTH = {"sysu": 192, "regdb": 144}


def sample(t: Tensor, most: int = 1500) -> np.ndarray:
    flat = t.reshape(-1)
    step = max(1, flat.numel() // most) | 1
    return flat[::step][:most].numpy()


def entries(variant: str) -> list[dict]:
    """The authors' state dict: key, shape, dtype, kind and use (used, unused, constant) of each entry."""
    return json.loads((DATA / f"state_dict_{variant}.json").read_text())


def drawn_once(make):
    """Drawing a network's weights takes seconds: they are kept in a file, which later calls map into memory.

    What a test changes of them in place is seen by nobody else.
    """
    @functools.wraps(make)
    def kept(*arguments: str) -> dict[str, Tensor]:
        name = "-".join([make.__name__, *arguments]) + ".pt"
        file = Shared.of_the_session.once(name, lambda path: torch.save(make(*arguments), path))
        return torch.load(file, mmap=True, weights_only=True)

    return kept


@drawn_once
def authors_state(variant: str) -> dict[str, Tensor]:
    """The entries that the authors' network computes with, by the rule, rounded to float32."""
    state = {}
    for entry in entries(variant):
        if entry["use"] == "used":
            key, shape = entry["key"], tuple(entry["shape"])
            counter = key.endswith("num_batches_tracked")
            state[key] = torch.zeros((), dtype=torch.long) if counter else torch.from_numpy(weight(key, shape)).float()
    return state


def empty_model(variant: str) -> nn.Module:
    options = get_defaults().MODEL
    options.PRETRAINED = "none"
    options.STAGES = 4 if variant == "sysu" else 3
    return build_model(options, CLASSES[variant])


def reference_model(variant: str) -> nn.Module:
    """Our network with the reference weights, without dropout and drop path."""
    with nothing_drawn():
        model = empty_model(variant)
    model.load_state_dict(from_authors({"net": authors_state(variant)}, model))
    return still(model)


def watch_stages(model: nn.Module) -> dict[str, Tensor]:
    """A dict that each forward pass fills with the maps after every stage, by the reference's names."""
    named = {"stem_visible": model.backbone.visible_stem, "stem_infrared": model.backbone.infrared_stem}
    named["mbue"] = model.mbue
    for name, modules in [("layer", model.backbone.stages), ("hce", model.context), ("mfa", model.mfa)]:
        named |= {f"{name}{i}": module for i, module in enumerate(modules, start=1)}
    return recorded(named)


def recorded(named: dict[str, nn.Module]) -> dict[str, Tensor]:
    """A dict that each forward pass fills with what the modules return, by their names."""
    seen = {}
    for name, module in named.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach().clone()))
    return seen


@drawn_once
def baseline_state(keys: str, last_stage: str, only: str = "") -> dict[str, Tensor]:
    """A compared method's whole state dict by the rule: what the network never uses has values too.

    keys         file of its entries in tests/data
    last_stage   of the network; its residual branches are made weak, so that features lie where losses are sensitive
    only         a flag of the file's entries: those without it are 0, which takes no time
    """
    state = {}
    for entry in json.loads((DATA / keys).read_text()):
        key, shape = entry["key"], tuple(entry["shape"])
        if "int" in entry["dtype"]:
            state[key] = torch.zeros(shape, dtype=torch.long)
            continue
        if only and not entry[only]:
            state[key] = torch.zeros(()).expand(shape)
            continue
        value = weight(key, shape)
        weak = any(f".{part}." in key for part in ("bn3", "downsample.1")) and key.endswith((".weight", ".bias"))
        if weak and key.startswith(f"{last_stage}."):
            value = 0.05 * value
        state[key] = torch.from_numpy(value).float()
    return state


def check_stages(stored, seen: dict[str, Tensor]) -> set[str]:
    """The stored samples of maps are those of the maps seen; returns their names."""
    stages = {key.removeprefix("stage/") for key in stored if key.startswith("stage/")}
    for stage in stages:
        assert tuple(seen[stage].shape) == tuple(stored[f"stage_shape/{stage}"]), stage
        assert relative(sample(seen[stage], 256), stored[f"stage/{stage}"]) < 1e-6, stage
    return stages


def check_features(stored, prefix: str, pooled: Tensor, neck: Tensor) -> None:
    """Directions and lengths of features before their normalisation are the stored ones; (views, B, D) each."""
    for name, features in (("pooled", pooled.flatten(0, 1)), ("neck", neck.flatten(0, 1))):
        norm = features.norm(dim=1)
        assert relative(features / norm[:, None], stored[f"{prefix}/{name}"]) < 1e-6
        assert relative(norm, stored[f"{prefix}/{name}_norm"]) < 1e-6


def check_after_backward(stored, norms: dict[str, float], model: nn.Module) -> None:
    """Running statistics, samples of gradients and gradient norms are the stored ones, by the authors' names."""
    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    gradients = {authors_name(key, model): p.grad for key, p in model.named_parameters() if p.requires_grad}
    for key in stored:
        kind, _, name = key.partition("/")
        if kind == "after_step":
            assert relative(state[name], stored[key]) < 1e-6, key
        if kind == "gradient":
            assert relative(sample(gradients[name], 256), stored[key]) < 1e-6, key
    assert set(norms) <= set(gradients) and len(norms) > 100
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-6), name


def check_float32(model: nn.Module, images: Tensor, stored) -> None:
    """Of the visible block images, float32 gives the stored features too; the model is left in float64."""
    with torch.inference_mode():
        for name, features in zip(("pooled", "neck"), model.float().features(images.float(), infrared=False)):
            assert relative(features.flatten(0, 1), stored[f"blocks/visible/{name}"]) < 1e-5
    model.double()


def unwritten_state(keys: str) -> dict[str, Tensor]:
    """A compared method's whole state dict by names and shapes; its zeros take neither time nor memory."""
    return {e["key"]: torch.zeros(()).expand(e["shape"]) for e in json.loads((DATA / keys).read_text())}


def check_trained(keys: str, model: nn.Module) -> None:
    """Those parameters are trained that the authors train."""
    trained = {entry["key"] for entry in json.loads((DATA / keys).read_text()) if entry["trained"]}
    assert {authors_name(name, model) for name, p in model.named_parameters() if p.requires_grad} == trained
