"""Every variant of the network: shapes, finite values, a gradient on every parameter, and what a switch builds."""

import pytest
import torch
from batches import two_streams
from thin import all_thin, wide
from torch import nn

from configs.load import load_config
from models.build import MODELS, build_model
from models.network import MethodError
from models.parts.hce import HCE, DilatedBottleneck
from models.parts.layers import DropPath
from models.parts.mbue import reread
from models.parts.mfa import ImageSizeError, NonLocal, PositionNonLocal, chain

AGW = ["MODEL.NAME", "agw", "MODEL.POOL", "gem"]
VARIANTS = {
    "full": [],
    "regdb": ["MODEL.STAGES", "3"],
    "backbone only": ["MODEL.HCE.ENABLED", "false", "MODEL.MBUE.ENABLED", "false", "MODEL.CSC_CMA.ENABLED", "false"],
    "hce": ["MODEL.MBUE.ENABLED", "false", "MODEL.CSC_CMA.ENABLED", "false"],
    "hce and mbue": ["MODEL.CSC_CMA.ENABLED", "false"],
    "mbue without hce": ["MODEL.HCE.ENABLED", "false"],
    "aligned tokens": ["MODEL.MBUE.TOKEN_LAYOUT", "aligned"],
    "all positions": ["MODEL.MFA.POSITIONS", "all"],
    "drawn dilations": ["MODEL.HCE.DILATIONS", "[1, 2, 3]"],
    "drawn third context stage": ["MODEL.HCE.THIRD", "hce"],
    "drawn context path": ["MODEL.MBUE.CONTEXT_PATH", "true"],
    "drawn compressions": ["MODEL.MBUE.SEPARATE_COMPRESSIONS", "true"],
    "drawn keys": ["MODEL.CSC_CMA.KEYS", "global"],
    "resnet34": ["MODEL.BACKBONE", "resnet34"],
    "resnet50": ["MODEL.BACKBONE", "resnet50"],
    "deen": ["MODEL.NAME", "deen"],
    "deen, regdb": ["MODEL.NAME", "deen", "MODEL.STAGES", "3"],
    "agw": AGW,
    "agw, half of the channels, learned pooling": [*AGW, "MODEL.NON_LOCAL", "half", "MODEL.POOL", "gem_learned"],
    "agw, resnet50": [*AGW, "MODEL.BACKBONE", "resnet50"],
    "two-stream baseline": ["MODEL.NAME", "agw", "MODEL.NON_LOCAL", "none"],
    "caj": ["MODEL.NAME", "caj", "MODEL.POOL", "gem"],
    "regdb resnet50": ["MODEL.BACKBONE", "resnet50", "MODEL.STAGES", "3"],
}


def build(*overrides, classes=5):
    options = ["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none", *overrides]
    return build_model(load_config(overrides=options).MODEL, classes)


@pytest.fixture
def unwritten():
    """Networks are built of full width and without their numbers, for a test that looks at names and shapes alone."""
    with torch.device("meta"), wide():
        yield


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_embeds(variant):
    with all_thin():
        model = build(*VARIANTS[variant]).train()
    for module in model.modules():
        if isinstance(module, NonLocal):  # a zero-initialised way out lets no gradient into its block
            nn.init.ones_(module.out[1].weight)
    visible, infrared = torch.randn(4, 3, 64, 32), torch.randn(6, 3, 64, 32)
    output = model(two_streams(visible, infrared))
    views, width = model.views, model.head.classifier.in_features
    assert views == (3 if any(name.startswith(("mbue.", "dee.")) for name, _ in model.named_parameters()) else 1)
    assert output.pooled.shape == output.neck.shape == (views, 10, width)
    assert output.logits.shape == (views, 10, 5)
    assert output.infrared.tolist() == [False] * 4 + [True] * 6

    (output.logits.square().sum() + output.pooled.square().sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["head.neck.bias"]

    model.eval()
    with torch.inference_mode():
        features = model.embed(visible, infrared=False)
    assert features.shape == (4, 2 * views * width) and features.isfinite().all()


def test_bfloat16_autocast_gives_nearly_the_same_and_finite_gradients(thin):
    model = build().train()
    visible, infrared = torch.randn(8, 3, 64, 32), torch.randn(8, 3, 64, 32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.probability = 0.0
    exact = model(two_streams(visible, infrared)).pooled
    with torch.autocast("cpu", torch.bfloat16):
        output = model(two_streams(visible, infrared))
    cosine = nn.functional.cosine_similarity(output.pooled.float().flatten(0, 1), exact.flatten(0, 1))
    assert cosine.min() > 0.95
    output.logits.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_a_part_switched_off_builds_no_parameters(unwritten):
    counts = [
        parameters(build(*VARIANTS[name])) for name in ("backbone only", "hce", "hce and mbue", "full")
    ]
    assert counts == sorted(counts) and len(set(counts)) == 4
    names = {name.split(".")[0] for name, _ in build(*VARIANTS["backbone only"]).named_parameters()}
    assert names == {"backbone", "head"}
    assert not any("fusion" in name for name, _ in build(*VARIANTS["hce and mbue"]).named_parameters())
    without_fusion = build("MODEL.CSC_CMA.ENABLED", "false", "MODEL.MBUE.CONTEXT_PATH", "true")
    assert parameters(without_fusion) == counts[2]


def test_channel_numbers_follow_the_backbone(unwritten):
    paper = build("MODEL.BACKBONE", "resnet50")
    first, second = paper.context[0]
    assert [conv[0].out_channels for conv in first.dilated] == [128] * 3 and first.fuse[0].out_channels == 256
    assert second.fuse[0].out_channels == 64
    assert isinstance(paper.context[2], DilatedBottleneck) and paper.context[2].dilated[0].dilation == (5, 5)
    drawn = build("MODEL.BACKBONE", "resnet50", "MODEL.HCE.THIRD", "hce").context[2]
    assert isinstance(drawn, HCE) and drawn.dilated[0][0].in_channels == 512 and drawn.dilated[0][0].out_channels == 256
    assert build().head.classifier.in_features == 512 and build("MODEL.STAGES", "3").head.classifier.in_features == 256


def test_training_starts_from_the_plain_backbone(thin):
    model = build("MODEL.MBUE.ENABLED", "false").eval()
    x = torch.randn(2, 64, 16, 8)
    for i, stage in enumerate(model.backbone.stages[:3]):
        fused = model.mfa[i](stage(x), model.context[i](x))
        torch.testing.assert_close(fused, stage(x))
        x = fused


def test_the_first_view_is_the_plain_embedding(thin):
    model = build().eval()
    x = torch.randn(2, 128, 4, 2)
    torch.testing.assert_close(model.mbue(x)[:2], x)


def test_each_modality_goes_through_its_own_stem(thin):
    model, images = build().eval(), torch.randn(2, 3, 64, 32)
    visible, infrared = model.embed(images, infrared=False), model.embed(images, infrared=True)
    assert (visible - infrared).abs().max() > 1e-3  # the stems start from different random weights
    nn.init.zeros_(model.backbone.infrared_stem[0].weight)
    torch.testing.assert_close(model.embed(images, infrared=False), visible)


@pytest.mark.parametrize("flip", [False, True])
def test_similarity_is_the_sum_over_views_and_features(flip, thin):
    model = build().eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        embedded = model.embed(images, infrared=True, flip=flip)
        shown = [images, images.flip(-1)] if flip else [images]
        pooled, neck = (sum(parts) for parts in zip(*(model.features(x, infrared=True) for x in shown)))
    for weighting, (a, b) in {"equal": (1, 1), "neck": (0.1, 0.9)}.items():
        expected = a * sum(p @ p.T for p in pooled) + b * sum(n @ n.T for n in neck)
        scaled = embedded * model.column_scale(weighting)
        torch.testing.assert_close(scaled @ scaled.T, expected)


def test_a_mirrored_image_has_the_same_embedding(thin):
    model, images = build().eval(), torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(model.embed(images, False), model.embed(images.flip(-1), False), atol=1e-5, rtol=1e-4)


def test_halves_read_only_their_own_half():
    block = PositionNonLocal(8, 4, "halves").eval()
    nn.init.ones_(block.out[1].weight)
    nn.init.zeros_(block.g.bias)
    high, low = torch.randn(1, 8, 4, 3), torch.randn(1, 4, 8, 6)
    changed = low.clone()
    changed[:, :, 4:] = 0.0
    # With θ's upper rows only, the affinity does not see the lower half: what changes is what the halves read.
    high[:, :, 2:] = 0.0
    nn.init.zeros_(block.theta.bias)
    torch.testing.assert_close(block(high, low)[:, :, :2], block(high, changed)[:, :, :2])
    everywhere = PositionNonLocal(8, 4, "all").eval()
    everywhere.load_state_dict(block.state_dict())
    assert not torch.allclose(everywhere(high, low)[:, :, :2], everywhere(high, changed)[:, :, :2])


def test_an_odd_number_of_positions_is_refused_naming_the_image(thin):
    with pytest.raises(ImageSizeError, match="images of 72x40 give stage 2 a map of 9x5"):
        build().embed(torch.randn(1, 3, 72, 40), infrared=False)
    assert build("MODEL.MFA.POSITIONS", "all").eval().embed(torch.randn(1, 3, 72, 40), infrared=False).isfinite().all()


def test_products_of_three_matrices_agree_however_associated():
    for inner, outer in [(2, 50), (50, 2)]:
        a, b, c = torch.randn(3, 7, inner), torch.randn(3, inner, outer), torch.randn(3, outer, 9)
        torch.testing.assert_close(chain(a, b, c, divisor=3), a @ b @ c / 3, atol=1e-4, rtol=1e-4)


def test_rereading_memory_in_another_order_mixes_tokens_and_channels():
    written = torch.arange(12).reshape(1, 2, 3, 2)  # (H, C, W) = (2, 3, 2)
    assert reread(written, (3, 2, 2))[0, 1].tolist() == [[4, 5], [6, 7]]  # channel 1 is read across rows 0 and 1


def test_an_unknown_method_or_part_is_refused_with_those_that_there_are(unwritten):
    with pytest.raises(MethodError, match=f"MODEL.NAME is 'adw'; known are {', '.join(MODELS)}"):
        build("MODEL.NAME", "adw")
    with pytest.raises(MethodError, match="MODEL.RECOMPUTE has hce; the parts of agw are early, last"):
        build("MODEL.NAME", "agw", "MODEL.RECOMPUTE", "['hce', 'last']")
    with pytest.raises(MethodError, match="MODEL.STAGES is 3: .* negative values, of which MODEL.POOL gem"):
        build(*AGW, "MODEL.STAGES", "3")
