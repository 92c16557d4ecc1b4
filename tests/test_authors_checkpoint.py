"""The importer of the authors' checkpoints: complete, by name, and strict."""

import pytest
import torch
from reference import empty_model, entries

from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.parts.layers import relative_position_index


@pytest.fixture(scope="module", params=["sysu", "regdb"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def model(variant):
    with torch.device("meta"):  # for its names and shapes
        return empty_model(variant)


@pytest.fixture
def whole(variant):
    """The authors' state dict with its unused and constant entries; values of used ones are what is asked for."""
    state = {}
    signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).reshape(4, 1, 2, 2) / 2
    for entry in entries(variant):
        key, shape = entry["key"], entry["shape"]
        if entry["use"] == "constant" and key.endswith("index"):
            state[key] = relative_position_index(8)
        elif entry["use"] == "constant":
            state[key] = signs.repeat(shape[0] // 4, 1, 1, 1)
        else:
            state[key] = torch.zeros(()).expand(shape)  # takes no memory
    return state


def test_our_entries_are_exactly_the_used_ones(model, variant):
    used = {entry["key"] for entry in entries(variant) if entry["use"] == "used"}
    assert {authors_name(key, model) for key in model.state_dict()} == used


def test_a_whole_checkpoint_is_read_bare_or_as_net(model, whole):
    for checkpoint in (whole, {"net": whole, "epoch": 7}, {"net": {f"module.{k}": v for k, v in whole.items()}}):
        assert set(from_authors(checkpoint, model)) == set(model.state_dict())


def test_values_arrive_under_their_names(model, variant):
    used = [entry for entry in entries(variant) if entry["use"] == "used"]
    theirs = {entry["key"]: torch.tensor(float(i)).expand(entry["shape"]) for i, entry in enumerate(used)}
    ours = from_authors(theirs, model)
    torch.testing.assert_close(ours["mbue.branch2.fusion.cross.key.weight"], theirs["DEE.fu2.k_proj.weight"])
    torch.testing.assert_close(ours["mfa.1.position.out.1.bias"], theirs["MFA2.PNL.W.1.bias"])


@pytest.mark.parametrize("name, change, complaint", [
    ("classifier.weight", None, "missing: classifier.weight"),
    ("bottleneck.weight", torch.zeros(3), "of another shape: bottleneck.weight is [3], not"),
    ("DEE.FC31.weight", torch.zeros(3), "unexpected: DEE.FC31.weight"),
    ("DEE.FC11.dwconv.extra", torch.zeros(3), "unexpected: DEE.FC11.dwconv.extra"),
    ("base_resnet.base.fc.weight", torch.zeros(3), "unexpected: base_resnet.base.fc.weight"),
    ("DEE.FC12.attn.relative_position_index", torch.zeros(64, 64), "of other values than the method's constant"),
    ("DEE.fu1.feature_enhancer.0.wt_filter", torch.zeros(4, 1, 2, 2), "of other values than the method's constant"),
])
def test_anything_else_is_refused_by_name(model, whole, name, change, complaint):
    if change is None:
        del whole[name]
    else:
        whole[name] = change
    with pytest.raises(AuthorsCheckpointError, match="(?s)the authors' checkpoint.*") as error:
        from_authors(whole, model)
    assert complaint in str(error.value)
