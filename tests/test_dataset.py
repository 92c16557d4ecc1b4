import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from trees import sysu_tree

from assembly.recipe import check_together
from common.batch import Kind
from configs.load import ConfigError, load_config
from data.dataset import EvalImages, TrainBatches, eval_loaders, hold_out, open_benchmark
from data.pixels import MEAN, STD
from data.records import DataError
from data.sampler import Chunks, WithReplacement
from data.transforms import Pipeline

RECIPE = Pipeline(["jitter", "pad", "grey", "crop", "flip", "normalise", {"erase": {"area": [0.02, 0.4]}}])


@pytest.fixture
def benchmark(tmp_path):
    return open_benchmark("synthetic", sysu_tree(tmp_path, images=3))


def train_batches(records, seed=0, sampler=WithReplacement, visible=(RECIPE,), infrared=(RECIPE,), **options):
    drawn = sampler(records, 3, 2, seed)
    return TrainBatches(records, drawn, seed, 24, 12, visible=visible, infrared=infrared, **options)


def equal(a, b) -> bool:
    """Whether two batches are the same, bit for bit."""
    return all(
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) and x.kind == y.kind
        for x, y in zip(a.streams, b.streams, strict=True)
    )


def load(batches, positions, workers):
    return list(DataLoader(batches, batch_size=None, sampler=positions, num_workers=workers))


def test_images_are_read_in_another_size_where_a_pipeline_makes_it_the_networks(benchmark):
    plain, resized = Pipeline(["normalise"]), Pipeline(["resize", "normalise"])
    batch = train_batches(benchmark.train, visible=[resized], infrared=[resized], read_size=(36, 18))[0, 0]
    large = TrainBatches(benchmark.train, WithReplacement(benchmark.train, 3, 2, 0), 0, 36, 18,
                         visible=[plain], infrared=[plain])[0, 0]
    for small, whole in zip(batch.streams, large.streams):
        assert small.images.shape == (6, 3, 24, 12)
        pixels = whole.images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        expected = torch.stack([v2.functional.resize(image, [24, 12], antialias=True) for image in pixels])
        found = small.images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 255)


def test_a_read_size_needs_a_step_that_makes_it_the_networks():
    read = ["DATA.READ_SIZE", "[288, 144]"]
    check_together(load_config(overrides=["DATA.READ_SIZE", "[384, 0]"]), torch.device("cpu"))  # it is the network's
    with pytest.raises(ConfigError, match=r"READ_SIZE is \[288, 144\], the network's images are 384x192"):
        check_together(load_config(overrides=read), torch.device("cpu"))
    views = ["DATA.VISIBLE", '[["resize", "normalise"]]', "DATA.INFRARED", '[["pad", "resize", "normalise"]]']
    check_together(load_config(overrides=[*read, *views]), torch.device("cpu"))
    with pytest.raises(ConfigError, match="DATA.INFRARED has a view without the step resize: add it"):
        check_together(load_config(overrides=[*read, *views[:2]]), torch.device("cpu"))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing_bit_for_bit(benchmark):
    batches = train_batches(benchmark.train)
    positions = [(epoch, step) for epoch in range(2) for step in range(batches.length(epoch))]
    alone = load(batches, positions, 0)
    for workers in (1, 3):
        for ours, theirs in zip(alone, load(batches, positions, workers), strict=True):
            assert equal(ours, theirs)
    resumed = load(batches, positions[4:], 2)  # begun in the middle
    assert resumed and all(equal(a, b) for a, b in zip(alone[4:], resumed, strict=True))
    other_seed, = load(train_batches(benchmark.train, seed=1), positions[:1], 0)
    for other in (alone[1], other_seed):
        assert not torch.equal(alone[0].streams[0].images, other.streams[0].images)


def test_an_image_that_is_shown_in_several_views_is_read_once(benchmark):
    exchanged = Pipeline(["pad", "crop", "flip", "normalise", "erase", "exchange"])
    batches = train_batches(benchmark.train, visible=[RECIPE, exchanged])
    apart = [train_batches(benchmark.train, visible=[view, view])[1, 0] for view in (RECIPE, exchanged)]
    read, paths = batches.read, []
    batches.read = lambda path: (paths.append(path), read(path))[1]
    batch = batches[1, 0]
    assert sorted(paths) == sorted({*paths})
    for i, alone in enumerate(apart):
        assert torch.equal(batch.streams[i].images, alone.streams[i].images)


def test_loading_leaves_all_generators_alone(benchmark, monkeypatch):
    batches = train_batches(benchmark.train)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    first = batches[0, 0]
    assert torch.equal(torch.rand(3), expected) and not seeded
    assert equal(first, batches[0, 0])  # nor does it matter how they stand


def test_a_batch_has_both_modalities_of_the_same_people(benchmark):
    batch = train_batches(benchmark.train)[0, 1]
    visible, infrared = batch.streams
    assert (visible.kind, infrared.kind) == (Kind(infrared=False), Kind(infrared=True)) and len(batch) == 12
    assert visible.images.shape == infrared.images.shape == (6, 3, 24, 12) and visible.images.dtype == torch.float32
    assert visible.labels.dtype == torch.int64 and len(visible.labels.unique()) == 3
    assert torch.equal(visible.labels, infrared.labels)


def test_batches_lie_as_the_network_wants_them(benchmark):
    for workers in (0, 1):
        batch, = load(train_batches(benchmark.train), [(0, 0)], workers)
        for images in (stream.images for stream in batch.streams):
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


def test_a_broken_image_is_named_from_a_worker_too(benchmark):
    path = benchmark.test[0].path
    with open(path, "w") as file:
        file.write("broken")
    loader = iter(DataLoader(EvalImages(benchmark.test, [0], 24, 12), num_workers=1))
    with pytest.raises(DataError, match="0001.jpg is broken or no image"):
        next(loader)
    loader._shutdown_workers()  # the garbage collector would do it too, but waits five seconds for it


def test_an_unknown_data_set_is_refused(tmp_path):
    for name in ("duke", "folder-", "folders", "folder-a/b"):
        with pytest.raises(DataError, match="known are sysu, regdb, llcm, market, synthetic, and folder or folder"):
            open_benchmark(name, tmp_path)


def test_caj_sees_each_visible_image_twice_with_draws_of_its_own(benchmark):
    data = load_config("configs/sysu_caj.yaml").DATA
    visible, infrared = ([Pipeline(view) for view in views] for views in (data.VISIBLE, data.INFRARED))
    batch = train_batches(benchmark.train, visible=visible, infrared=infrared)[0, 0]
    plain, exchanged, _ = batch.streams
    assert [stream.kind for stream in batch.streams] == [Kind(False, 0), Kind(False, 1), Kind(True, 0)]
    for stream in batch.streams:
        assert stream.images.shape == (6, 3, 24, 12) and torch.equal(stream.labels, plain.labels)
        assert stream.images.is_contiguous(memory_format=torch.channels_last)
    plain, exchanged = plain.images, exchanged.images
    assert torch.equal(exchanged[:, 0], exchanged[:, 1]) and not torch.equal(plain[:, 0], plain[:, 1])
    alone = train_batches(benchmark.train, visible=visible[:1], infrared=infrared)[0, 0]
    assert torch.equal(alone.streams[0].images, plain)
    assert not any(torch.equal(a[0] - a[0].mean(), b[0] - b[0].mean()) for a, b in zip(plain, exchanged))


def test_any_number_of_views_of_either_modality_is_a_stream_each(benchmark):
    plain = Pipeline(["normalise"])
    batch = train_batches(benchmark.train, visible=[plain], infrared=[plain, RECIPE, plain])[0, 0]
    assert [stream.kind for stream in batch.streams] == [Kind(False, 0), *(Kind(True, view) for view in range(3))]
    first, changed, again = (stream.images for stream in batch.streams[1:])
    assert torch.equal(first, again) and not torch.equal(first, changed)


def test_a_pipeline_is_told_the_epoch(benchmark):
    grey = Pipeline([{"grey": {"p": 1, "until": 2}}, "normalise"])
    batches = train_batches(benchmark.train, visible=[grey], infrared=[Pipeline(["normalise"])])
    levels = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)

    def without_colours(epoch):
        images = batches[epoch, 0].streams[0].images * levels[0] + levels[1]
        return bool((images[:, :1] - images).abs().max() < 1e-5)

    assert [without_colours(epoch) for epoch in range(4)] == [True, True, False, False]


def test_processes_share_a_batch_identity_by_identity(benchmark):
    whole = train_batches(benchmark.train)[0, 0]
    parts = [train_batches(benchmark.train, rank=rank, world=3)[0, 0] for rank in range(3)]
    for i, stream in enumerate(whole.streams):
        shares = [part.streams[i] for part in parts]
        assert torch.equal(torch.cat([share.images for share in shares]), stream.images)
        assert torch.equal(torch.cat([share.labels for share in shares]), stream.labels)
        assert all(len(share.labels.unique()) == 1 and share.kind == stream.kind for share in shares)
    with pytest.raises(DataError, match="SOLVER.IDENTITIES is 3, which 2 processes cannot share evenly"):
        train_batches(benchmark.train, world=2)


def test_batches_are_those_of_the_sampler(benchmark):
    plain = Pipeline(["normalise"])
    batches = train_batches(benchmark.train, sampler=Chunks, visible=[plain], infrared=[plain])
    plan = batches.sampler.plan(1)
    assert batches.length(1) == len(plan) > 1
    for step, drawn in enumerate(plan):
        for part, stream in zip((drawn.visible, drawn.infrared), batches[1, step].streams):
            assert stream.labels.tolist() == part.labels.tolist()
            shown = EvalImages(benchmark.train, part.rows.tolist(), 24, 12)
            assert torch.equal(stream.images, torch.stack([shown[i][0] for i in range(len(shown))]))
    shown = {benchmark.train[row].identity for row in plan[0].visible.rows}
    assert batches.identities_of([batches[1, 0]]) == sorted(shown)


def test_training_and_test_images_are_resized_alike(benchmark):
    plain = Pipeline(["normalise"])
    for resize in ("lanczos", "bilinear"):
        batches = train_batches(benchmark.train, visible=[plain], infrared=[plain], resize=resize)
        row = batches.sampler.batch(0, 0).visible.rows[0]
        shown, _ = EvalImages(benchmark.train, [row], 24, 12, resize)[0]
        other, _ = EvalImages(benchmark.train, [row], 24, 12, {"lanczos": "bilinear", "bilinear": "lanczos"}[resize])[0]
        assert torch.equal(batches[0, 0].streams[0].images[0], shown) and not torch.equal(shown, other)
