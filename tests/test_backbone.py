import pytest
import torch
import torchvision
from thin import thin

from models.parts.backbone import Backbone, PretrainedError


def imagenet_file(tmp_path, name="resnet18"):
    state = torchvision.models.get_model(name, weights=None).state_dict()
    torch.save(state, tmp_path / f"{name}.pth")
    return state, str(tmp_path / f"{name}.pth")


def test_stage_four_keeps_the_resolution():
    for name, width in [("resnet18", 512), ("resnet50", 2048)]:
        backbone = Backbone(name, pretrained="none").eval()
        x = backbone.visible_stem(torch.randn(1, 3, 64, 32))
        sizes = [tuple(x.shape[1:])]
        for stage in backbone.stages:
            x = stage(x)
            sizes.append(tuple(x.shape[1:]))
        e = width // 512
        assert sizes == [(64, 16, 8), (64 * e, 16, 8), (128 * e, 8, 4), (256 * e, 4, 2), (512 * e, 4, 2)]
        assert backbone.channels == [64 * e, 128 * e, 256 * e, 512 * e]


def test_stages_of_a_modalitys_own_are_a_part_of_its_stem(tmp_path):
    with thin():
        state, path = imagenet_file(tmp_path)
        backbone = Backbone("resnet18", pretrained=path, own=2)
    stems = backbone.visible_stem, backbone.infrared_stem
    for stem in stems:
        assert stem(torch.randn(1, 3, 64, 32)).shape == (1, 64, 8, 4)
        torch.testing.assert_close(stem.stages[1][1].conv2.weight, state["layer2.1.conv2.weight"])
    assert stems[0].stages[1][1].conv2.weight is not stems[1].stages[1][1].conv2.weight
    assert (backbone.stem_channels, backbone.channels, len(backbone.stages)) == (64, [128, 192], 2)
    torch.testing.assert_close(backbone.stages[0][1].conv2.weight, state["layer3.1.conv2.weight"])


def test_both_stems_and_all_stages_start_from_the_file(tmp_path):
    state, path = imagenet_file(tmp_path)
    backbone = Backbone("resnet18", pretrained=path)
    for stem in (backbone.visible_stem, backbone.infrared_stem):
        torch.testing.assert_close(stem[0].weight, state["conv1.weight"])
    assert backbone.visible_stem[0].weight is not backbone.infrared_stem[0].weight
    torch.testing.assert_close(backbone.stages[3][1].conv2.weight, state["layer4.1.conv2.weight"])


def test_weights_that_cannot_be_had_stop_with_the_fix(tmp_path, monkeypatch):
    with pytest.raises(PretrainedError, match="no such file.*state dict of torchvision's resnet18"):
        Backbone("resnet18", pretrained=str(tmp_path / "absent.pth"))
    _, path = imagenet_file(tmp_path)
    with pytest.raises(PretrainedError, match="not a state dict of torchvision's resnet50: .*conv1"):
        Backbone("resnet50", pretrained=path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(PretrainedError) as error:
        Backbone("resnet50", pretrained="imagenet")
    message = str(error.value)
    assert "resnet50's weights could not be downloaded (no route to host)" in message
    assert "resnet50-0676ba61.pth" in message and str(tmp_path) in message and "MODEL.PRETRAINED" in message
