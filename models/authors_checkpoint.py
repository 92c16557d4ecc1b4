"""Checkpoints in the authors' format: their names for our parameters, and which of theirs never do anything."""

import re

import torch
from torch import Tensor

from common.weights import described, named_tensors
from models.network import Names, Network
from models.parts.layers import haar, relative_position_index

# Rewritten from the left: the first entry that matches the start of one of our names gives the start of theirs. A
# network's own `authors_names` come first.
PREFIXES: Names = (
    (r"backbone\.visible_stem\.0\.", "visible_module.visible.conv1."),
    (r"backbone\.visible_stem\.1\.", "visible_module.visible.bn1."),
    (r"backbone\.infrared_stem\.0\.", "thermal_module.thermal.conv1."),
    (r"backbone\.infrared_stem\.1\.", "thermal_module.thermal.bn1."),
    (r"backbone\.stages\.(\d)\.", lambda m: f"base_resnet.base.layer{int(m[1]) + 1}."),
    (r"context\.2\.(reduce|dilated|expand)\.(\d)\.", lambda m: f"layer5.0.{BOTTLENECK[m[1]][int(m[2])]}."),
    (r"context\.0\.(\d)\.", r"layer3.\1."),
    (r"context\.(\d)\.", lambda m: f"layer{int(m[1]) + 3}.0."),
    (r"mfa\.(\d)\.(channel|position)\.", lambda m: f"MFA{int(m[1]) + 1}.{'CNL' if m[2] == 'channel' else 'PNL'}."),
    (r"mbue\.branch(\d)\.local_block\.", r"DEE.FC\g<1>1."),
    (r"mbue\.branch(\d)\.global_block\.", r"DEE.FC\g<1>2."),
    (r"mbue\.branch(\d)\.fusion\.", r"DEE.fu\1."),
    (r"mbue\.branch(\d)\.expand\.", r"DEE.FC\1."),
    (r"mbue\.branch1\.compress_local\.", "DEE.compression2."),
    (r"mbue\.branch2\.compress_local\.", "DEE.compression3."),
    (r"mbue\.branch2\.compress_global\.", "DEE.compression4."),
    (r"head\.neck\.", "bottleneck."),
    (r"head\.classifier\.", "classifier."),
)
BOTTLENECK: dict[str, tuple[str, str]] = {
    "reduce": ("conv1", "bn1"), "dilated": ("conv2", "bn2"), "expand": ("conv3", "bn3"),
}

# What is left of our names inside a module; applied one after the other.
INNER = [
    (r"^(layer\d\.\d)\.dilated\.(\d)\.0\.", r"\1.conv_list.\2.conv."),
    (r"^(layer\d\.\d)\.dilated\.(\d)\.1\.", r"\1.conv_list.\2.bn."),
    (r"^(layer\d\.\d)\.shortcut\.", r"\1.process1."),
    (r"^(layer\d\.\d)\.fuse\.", r"\1.process2."),
    (r"^(MFA\d\.\w+)\.out\.", r"\1.W."),
    (r"^(DEE\.FC\d1)\.depthwise\.", r"\1.dwconv."),
    (r"^(DEE\.FC\d1)\.pointwise\.", r"\1.pwconv."),
    (r"^(DEE\.FC\d2)\.attention_norm\.", r"\1.norm1."),
    (r"^(DEE\.FC\d2)\.mlp_norm\.", r"\1.norm2."),
    (r"^(DEE\.FC\d2)\.mlp\.2\.", r"\1.mlp.3."),
    (r"^(DEE\.FC\d2)\.attention\.bias_table$", r"\1.attn.relative_position_bias_table"),
    (r"^(DEE\.FC\d2)\.attention\.project\.", r"\1.attn.proj."),
    (r"^(DEE\.FC\d2)\.attention\.", r"\1.attn."),
    (r"^(DEE\.fu\d)\.mix$", r"\1.fusion_weights"),
    (r"^(DEE\.fu\d)\.align_(local|global)\.", r"\1.\2_align."),
    (r"^(DEE\.fu\d)\.cross\.(q|k|v)[a-z]+\.", r"\1.\2_proj."),
    (r"^(DEE\.fu\d)\.cross\.project\.", r"\1.out_proj."),
    (r"^(DEE\.fu\d)\.spatial\.conv\.", r"\1.spatial_attn.0."),
    (r"^(DEE\.fu\d)\.channel\.reduce\.", r"\1.channel_attn.1."),
    (r"^(DEE\.fu\d)\.channel\.expand\.", r"\1.channel_attn.3."),
    (r"^(DEE\.fu\d)\.enhance\.0\.base\.", r"\1.feature_enhancer.0.base_conv."),
    (r"^(DEE\.fu\d)\.enhance\.0\.base_scale$", r"\1.feature_enhancer.0.base_scale.weight"),
    (r"^(DEE\.fu\d)\.enhance\.0\.wavelet\.", r"\1.feature_enhancer.0.wavelet_convs.0."),
    (r"^(DEE\.fu\d)\.enhance\.0\.wavelet_scale$", r"\1.feature_enhancer.0.wavelet_scale.0.weight"),
    (r"^(DEE\.fu\d)\.enhance\.", r"\1.feature_enhancer."),
    (r"^(DEE\.fu\d)\.combine\.mix\.", r"\1.final_fusion.conv1.conv."),
    (r"^(DEE\.fu\d)\.combine\.norm\.", r"\1.final_fusion.bn1."),
    (r"^(DEE\.fu\d)\.combine\.expand\.", r"\1.final_fusion.conv2.conv."),
    (r"^(DEE\.fu\d)\.combine\.reduce\.", r"\1.final_fusion.conv3.conv."),
    (r"^(DEE\.fu\d)\.combine\.out_norm\.", r"\1.final_fusion.conv3.bn."),
]

# Entries that follow from the method: checked, then dropped.
WINDOW_INDEX = r"DEE\.FC\d2\.attn\.relative_position_index$"
HAAR_FILTERS = r"DEE\.fu\d\.feature_enhancer\.0\.i?wt_filter$"


class AuthorsCheckpointError(ValueError):
    """The checkpoint is not one of this network; the message lists the names."""


def authors_name(name: str, model: Network) -> str:
    """The authors' name of an entry of the network's state dict."""
    for pattern, replacement in (*model.authors_names, *PREFIXES):
        renamed, found = re.subn(f"^{pattern}", replacement, name)
        if found:
            break
    else:
        raise KeyError(f"{name} has no counterpart in the authors' network")
    for pattern, replacement in INNER:
        renamed = re.sub(pattern, replacement, renamed)
    return renamed


def from_authors(checkpoint: dict, model: Network) -> dict[str, Tensor]:
    """Our state dict from the authors'.

    checkpoint   a state dict by the authors' names, or a dict that holds one, such as their "net" (common/weights.py)
    model        the network to fill (not changed here)
    returns      what their checkpoints don't have (`Network.authors_lack`) as it is in `model`
    raises       AuthorsCheckpointError naming every entry that is missing, unexpected or of another shape
    """
    theirs = named_tensors(checkpoint)
    ours = model.state_dict()
    unused = model.authors_unused()
    problems, state, expected = [], {}, set()
    for name, value in ours.items():
        try:
            source = authors_name(name, model)
        except KeyError as error:
            problems.append(str(error.args[0]))
            continue
        expected.add(source)
        if source not in theirs and name.startswith(model.authors_lack):
            state[name] = value
        elif source not in theirs:
            problems.append(f"missing: {source}")
        elif theirs[source].shape != value.shape:
            problems.append(f"of another shape: {source} is {[*theirs[source].shape]}, not {[*value.shape]}")
        else:
            state[name] = theirs[source]
    for name, value in theirs.items():
        if re.match(f"{WINDOW_INDEX}|{HAAR_FILTERS}", name):
            if not is_constant_of_the_method(name, value):
                problems.append(f"of other values than the method's constant: {name}")
        elif name not in expected and not any(re.match(pattern, name) for pattern in unused):
            problems.append(f"unexpected: {name}")
    if problems:
        listed = "\n  ".join(problems)
        raise AuthorsCheckpointError(
            "this is not the authors' checkpoint of the network that the configuration describes but "
            f"{described(checkpoint)}:\n  {listed}"
        )
    return state


def is_constant_of_the_method(name: str, value: Tensor) -> bool:
    """Whether a relative position index or a bank of Haar filters holds what the network computes with."""
    if re.match(WINDOW_INDEX, name):
        index = relative_position_index(8)
        return value.shape == index.shape and torch.equal(value.long().cpu(), index)
    unit_images = torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2)
    filters = haar(unit_images).reshape(4, 4).T.reshape(4, 1, 2, 2)  # one filter per sub-band
    expected = filters.repeat(value.numel() // 16, 1, 1, 1)
    return value.shape == expected.shape and torch.allclose(value.double().cpu(), expected, atol=1e-6)
