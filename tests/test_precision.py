"""Half precision and recomputation: neither changes where the training goes."""

import pytest
import torch
from batches import two_streams
from reference import nothing_drawn
from thin import small_trunk, thin
from torch import nn

from assembly.recipe import build_loss
from common.batch import Batch, Kind, Stream
from configs.load import load_config
from models.build import MODELS, build_model
from models.parts.mfa import chain

SIZE = 64, 32  # of images
RESNET18 = ["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none"]


def gradients(model, criterion, dtype=None, people=4, size=(64, 32)):
    """Of the total loss on images of some people, by parameter; dropout and drop path draw alike each time."""
    model.zero_grad()
    pairs = drawn(2 * people, 3, size[0] // 8, size[1] // 8)
    visible, infrared = (nn.functional.interpolate(x, scale_factor=8.0) for x in pairs)
    labels = torch.arange(people).repeat_interleave(2).tolist()
    batch = two_streams(visible, infrared, labels)
    if model.reads_shapes:
        batch = Batch([*batch.streams, *(
            Stream(s.images.flip(2), s.labels, Kind(s.kind.infrared, shape=True)) for s in batch.streams
        )])
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        output = model(batch)
    sum(criterion(output, epoch=1).values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def drawn(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=generator)


def test_gradients_in_bfloat16_point_where_those_in_float32_do():
    """In a network like a trained one, whose branches are weaker than what they are added to or stand beside.

    With random weights as they are drawn, every block amplifies any difference, be it rounding or another pixel.
    """
    cfg = load_config(overrides=[*RESNET18, "MODEL.MBUE.DROPOUT", "0.0", "MODEL.MBUE.DROP_PATH", "0.0"])
    model = build_model(cfg.MODEL, classes=50).train()
    for name, parameter in model.named_parameters():
        if name.endswith("bn2.weight") or (name.startswith("mfa") and name.endswith("out.1.weight")):
            nn.init.constant_(parameter, 0.2)
        elif name.startswith("mbue") and name.endswith(".expand.weight"):
            nn.init.kaiming_uniform_(parameter, a=5 ** 0.5)  # weaker than it starts, by 2.4
    criterion = build_loss(cfg)
    exact, rounded = (
        torch.cat([g.flatten() for g in gradients(model, criterion, dtype).values()])
        for dtype in (None, torch.bfloat16)
    )
    assert torch.cosine_similarity(exact, rounded, dim=0) >= 0.99
    assert exact.dtype == rounded.dtype == torch.float32


def test_sums_over_many_positions_stay_in_range_and_exact():
    a, b, c = torch.full((1, 2, 5000), 8.0), torch.full((1, 5000, 2), 8.0), torch.ones(1, 2, 3)
    assert 8 * 8 * 5000 > torch.finfo(torch.float16).max
    for half in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", half):
            y = chain(a.to(half), b.to(half), c.to(half), divisor=2)
        assert y.dtype == torch.float32 and torch.equal(y, torch.full((1, 2, 3), 320_000.0))


@pytest.mark.parametrize("name, part", [
    (name, part) for name, network in MODELS.items() if name != "caj" for part in network.parts  # caj's is agw's
])
def test_a_part_computed_again_changes_neither_gradients_nor_statistics(name, part):
    dropout = {"cmfn": ["MODEL.MBUE.DROPOUT", "0.3"], "deen": ["MODEL.DEE.DROPOUT", "0.3"]}
    options = ["MODEL.NAME", name, *dropout.get(name, [])]
    cfg, again_cfg = (
        load_config(overrides=["MODEL.PRETRAINED", "none", *small_trunk(name), *options, "MODEL.RECOMPUTE", parts])
        for parts in ("[]", f"['{part}']")
    )
    size = (48, 48) if MODELS[name].reads_size else (64, 32)
    with thin():
        model = build_model(cfg.MODEL, 50, size).train()
        with nothing_drawn():
            again_model = build_model(again_cfg.MODEL, 50, size).train()
    again_model.load_state_dict(model.state_dict())
    found = [(gradients(m, build_loss(cfg), people=2, size=size), m.state_dict()) for m in (model, again_model)]
    (kept, kept_state), (again, again_state) = found
    for key, gradient in kept.items():
        torch.testing.assert_close(again[key], gradient, rtol=1e-5, atol=1e-7, msg=key)
    for key, value in kept_state.items():
        assert torch.equal(again_state[key], value), key
