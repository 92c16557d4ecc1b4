import pytest
import torch
from torch.utils.data import DataLoader
from trees import sysu_tree

from configs.load import load_config
from data.dataset import EvalImages, TrainBatches, eval_loaders, hold_out, open_benchmark
from data.records import DataError
from data.transforms import RandomErasing, TrainTransform, train_transforms

TRANSFORM = TrainTransform(jitter=True, erase=RandomErasing((0.02, 0.4)))


@pytest.fixture
def benchmark(tmp_path):
    return open_benchmark("synthetic", sysu_tree(tmp_path, images=3))


def train_batches(records, seed=0):
    return TrainBatches(records, 3, 2, seed, 24, 12, visible=[TRANSFORM], infrared=TRANSFORM)


def load(batches, positions, workers):
    return list(DataLoader(batches, batch_size=None, sampler=positions, num_workers=workers))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing_bit_for_bit(benchmark):
    batches = train_batches(benchmark.train)
    positions = [(epoch, step) for epoch in range(2) for step in range(len(batches))]
    alone = load(batches, positions, 0)
    for workers in (1, 3):
        for ours, theirs in zip(alone, load(batches, positions, workers), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    resumed = load(batches, positions[4:], 2)  # begun in the middle
    assert all(torch.equal(a[0], b[0]) for a, b in zip(alone[4:], resumed, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0])
    assert not torch.equal(alone[0][0], load(train_batches(benchmark.train, seed=1), positions[:1], 0)[0][0])


def test_loading_leaves_all_generators_alone(benchmark, monkeypatch):
    batches = train_batches(benchmark.train)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    first = batches[0, 0]
    assert torch.equal(torch.rand(3), expected) and not seeded
    assert all(torch.equal(a, b) for a, b in zip(first, batches[0, 0]))  # nor does it matter how they stand


def test_a_batch_has_both_modalities_of_the_same_people(benchmark):
    visible, infrared, labels = train_batches(benchmark.train)[0, 1]
    assert visible.shape == infrared.shape == (6, 3, 24, 12) and visible.dtype == torch.float32
    assert labels.dtype == torch.int64 and len(labels.unique()) == 3


def test_batches_lie_as_the_network_wants_them(benchmark):
    for workers in (0, 1):
        visible, infrared, _ = load(train_batches(benchmark.train), [(0, 0)], workers)[0]
        for images in (visible, infrared):
            assert images.is_contiguous(memory_format=torch.channels_last) and images.isfinite().all()


def test_held_out_identities_are_not_trained_on(benchmark):
    train, held = hold_out(benchmark.train, 2, seed=0)
    assert len({r.identity for r in held}) == 2 and not {r.identity for r in held} & {r.identity for r in train}
    assert len(train) + len(held) == len(benchmark.train)
    assert hold_out(benchmark.train, 0, seed=0) == (benchmark.train, [])
    protocol = benchmark.validation(held)
    trial = protocol.trials[0]
    assert all(held[row].infrared for row in trial.query) and not any(held[row].infrared for row in trial.gallery)
    assert len(trial.query) + len(trial.gallery) == len(held) == len(protocol.query_ignores)
    with pytest.raises(DataError, match="SOLVER.VALIDATION_IDS is 4"):
        hold_out(benchmark.train, 4, seed=0)


def test_evaluation_shows_every_image_once_by_modality(benchmark):
    seen = []
    for loader, infrared in eval_loaders(benchmark.test, 24, 12, batch=5, workers=0, pin_memory=False):
        for images, rows in loader:
            assert images.shape[1:] == (3, 24, 12)
            assert all(benchmark.test[row].infrared == infrared for row in rows.tolist())
            seen += rows.tolist()
    assert sorted(seen) == list(range(len(benchmark.test)))
    image, row = EvalImages(benchmark.test, [7], 24, 12)[0]
    assert row == 7 and image.shape == (3, 24, 12)


def test_a_broken_picture_is_named_from_a_worker_too(benchmark):
    path = benchmark.test[0].path
    with open(path, "w") as file:
        file.write("broken")
    loader = iter(DataLoader(EvalImages(benchmark.test, [0], 24, 12), num_workers=1))
    with pytest.raises(DataError, match="0001.jpg is broken or no image"):
        next(loader)
    loader._shutdown_workers()  # the garbage collector would do it too, but waits five seconds for it


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="known are sysu, regdb, llcm and synthetic"):
        open_benchmark("market", tmp_path)


def test_caj_sees_each_visible_image_twice_with_draws_of_its_own(benchmark):
    visible, infrared = train_transforms(load_config("configs/sysu_caj.yaml").DATA)
    batches = TrainBatches(benchmark.train, 3, 2, 0, 24, 12, visible=visible, infrared=infrared)
    shown, other, labels = batches[0, 0]
    assert shown.shape == (12, 3, 24, 12) and other.shape == (6, 3, 24, 12) and labels.shape == (6,)
    plain, exchanged = shown.chunk(2)
    assert torch.equal(exchanged[:, 0], exchanged[:, 1]) and not torch.equal(plain[:, 0], plain[:, 1])
    alone = TrainBatches(benchmark.train, 3, 2, 0, 24, 12, visible=visible[:1], infrared=infrared)
    assert torch.equal(alone[0, 0][0], plain)
    assert not any(torch.equal(a[0] - a[0].mean(), b[0] - b[0].mean()) for a, b in zip(plain, exchanged))
    assert shown.is_contiguous(memory_format=torch.channels_last)
