"""Several processes on the CPU (Gloo): the same training as one, one of them writing, and none waiting for the dead."""

import json
import os
import signal
import socket
import sys
import time

import programs
import pytest
import torch
from processes import Started, context
from thin import thin
from torch import nn

from assembly.adversary import adversary_steps
from assembly.recipe import body_shapes, build_loss, image_size, train_batches
from assembly.update import averaging, gather
from configs.load import is_read, load_config
from data.dataset import eval_loaders, open_benchmark
from data.records import DataError, Record
from data.synthetic import write_synthetic
from models.build import build_model
from utils.training.distributed import Ranks, joined

pytestmark = pytest.mark.usefixtures("thin")
OPTIONS = {
    "MODEL.BACKBONE": "resnet18", "MODEL.PRETRAINED": "none", "MODEL.STAGES": "3",
    "DATA.NAME": "synthetic", "DATA.HEIGHT": "32", "DATA.WIDTH": "16",
    "DATA.WORKERS": "0", "DATA.ERASING_AREA": "[0.1, 0.3]", "SOLVER.IDENTITIES": "4", "SOLVER.IMAGES": "1",
    "SOLVER.EPOCHS": "1", "DEVICE": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, seed=3, train_identities=6, test_identities=3, images_per_camera=2, height=32, width=16)
    return root


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def pairs(**options):
    return [str(part) for pair in (OPTIONS | options).items() for part in pair]


def start(folder, *command, world=2, **options):
    """One process for each rank, as torchrun starts them; their outputs are put into the folder."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": world}
    return [
        Started(
            folder / str(rank), *command, *pairs(**options), environment=common | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in range(world)
    ]


def finish(processes, status=0):
    outputs = []
    for process in processes:
        code, out, error = process.finished()
        assert code == status, out + error
        outputs.append((out, error))
    return outputs


VIEWS = "[['normalise', 'erase'], ['flip', 'normalise', 'erase']]"
TWO_VIEWS = {"DATA.VISIBLE": VIEWS, "DATA.INFRARED": VIEWS}
METHODS = {
    "cmfn": {"MODEL.MBUE.DROPOUT": "0.0", "MODEL.MBUE.DROP_PATH": "0.0"},
    "caj": {  # two streams of visible images; the divergence pairs rows of different streams
        "MODEL.NAME": "caj", "DATA.EXCHANGE": "channels", "LOSS.TRIPLET": "squared_difference",
        "LOSS.DIVERGENCE_WEIGHT": "1.0",
    },
    "dns": {"MODEL.NAME": "dns", "MODEL.DNS.DROPOUT": "0.0"},  # entries of one and of two features of each row
    "sefel": {  # body shapes, a teacher, weights by gradients
        "MODEL.NAME": "sefel", "MODEL.SEFEL.SHAPE_WIDTH": "32", "DATA.SHAPES": "shapes", "SOLVER.IMAGES": "2",
    },
    "mscmnet": {"MODEL.NAME": "mscmnet", "DATA.HEIGHT": "48", "DATA.WIDTH": "48", **TWO_VIEWS},
    "mclnet": {"MODEL.NAME": "mclnet"},  # an adversary with a step of its own
    "mcja": {  # streams that differ in size between the processes
        "MODEL.NAME": "mcja", "SOLVER.SAMPLER": "blind_chunks", "SOLVER.IMAGES": "3", "SEED": "1",
    },
}


def options_of(method):
    options = (OPTIONS | METHODS[method]).items()
    return load_config(overrides=[part for key, value in options if is_read(key, method) for part in (key, value)])


def gradients(options, world, batch):
    """Of the total loss, with frozen batch norms; averaged over ranks as in training."""
    torch.manual_seed(0)
    model = build_model(options.MODEL, 6, image_size(options)).double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    network = averaging(model) if world > 1 else model
    output = network(batch.map(lambda t: t.double() if t.is_floating_point() else t))
    output, steps = output.gathered(gather) if world > 1 else output, adversary_steps(model.adversary, options.SOLVER)
    if steps is not None:
        steps(output)
    terms = build_loss(options)(output, epoch=0)
    sum(terms.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {
        name: term.detach() for name, term in terms.items()
    }


def batch_of(options, data, rank, world):
    benchmark = open_benchmark("synthetic", data)
    shapes = body_shapes(options, benchmark)
    return train_batches(options, benchmark.train, Ranks(rank, world, rank), shapes=shapes)[0, 0]


def rank_main(rank, world, port, data, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    with thin(), joined(Ranks(rank, world, rank), torch.device("cpu")):
        for method in METHODS:
            options = options_of(method)
            found = gradients(options, world, batch_of(options, data, rank, world))
            torch.save(found, folder / f"{method}-{rank}.pt")


@pytest.fixture(scope="module")
def found_by_two(data, tmp_path_factory):
    """The folder of what two processes found, which start but once for all methods."""
    folder = tmp_path_factory.mktemp("gradients")
    port = free_port()
    processes = [context().Process(target=rank_main, args=(rank, 2, port, data, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_gradients_of_one_with_the_same_batch(method, data, found_by_two):
    options = options_of(method)
    expected = gradients(options, 1, batch_of(options, data, 0, 1))
    for rank in range(2):
        found = torch.load(found_by_two / f"{method}-{rank}.pt")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            difference = (found[name] - value).norm()
            assert difference <= 1e-5 * value.norm() + 1e-12, f"{name}: {difference} beside {value.norm()}"


def test_ranks_share_a_batch_without_overlap_and_with_the_same_augmentation(data):
    options = options_of("cmfn")
    whole, *parts = (batch_of(options, data, *place) for place in ((0, 1), (0, 2), (1, 2)))
    for i, stream in enumerate(whole.streams):
        assert torch.equal(torch.cat([part.streams[i].images for part in parts]), stream.images)
        assert torch.equal(torch.cat([part.streams[i].labels for part in parts]), stream.labels)
    assert not set(parts[0].rows.labels.tolist()) & set(parts[1].rows.labels.tolist())
    uneven = [batch_of(options_of("mcja"), data, rank, 2) for rank in range(2)]
    assert uneven[0].shares == uneven[1].shares == [part.rows.sizes for part in uneven]
    assert uneven[0].rows.sizes != uneven[1].rows.sizes and len(uneven[0]) == len(uneven[1]) == 6
    with pytest.raises(DataError, match="SOLVER.IDENTITIES is 4, which 3 processes cannot share evenly"):
        batch_of(options, data, 0, 3)


def test_ranks_share_the_images_to_embed():
    records = [Record(str(i), 1, 1, infrared=i % 3 == 0) for i in range(11)]
    rows = [
        row for rank in range(2) for loader, _ in eval_loaders(records, 8, 4, 2, 0, False, rank=rank, world=2)
        for row in loader.dataset.rows
    ]
    assert sorted(rows) == list(range(11))


@pytest.mark.long
def test_training_and_evaluation_on_two_processes_and_only_the_first_writes(data, tmp_path, whole):
    run = tmp_path / "run"
    options = {"DATA.ROOT": data, "OUTPUT": run, "SOLVER.VALIDATION_IDS": "2"}
    words = ["train.py", "--config", "configs/quickstart_cmfn.yaml"]
    if whole:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
        done = programs.run_apart(*launch, *programs.command(*words, *pairs(**options))[1:])
        assert done.returncode == 0 and done.stdout.count("training is complete") == 1, done.stdout + done.stderr
    else:
        outputs = finish(start(tmp_path / "train", *words, **options))
        assert "2 processes" in outputs[0][0] and "training is complete" in outputs[0][0] and outputs[1][0] == ""
    assert sorted(path.name for path in run.iterdir() if path.name != "tensorboard") == [
        "best.pth", "config.yaml", "curves.png", "last.pth", "metrics.jsonl", "train.log"
    ]
    programs.run("test.py", "--checkpoint", run, "--output", tmp_path / "one.json", drawn=False)
    outputs = finish(start(tmp_path / "test", "test.py", "--checkpoint", run, "--output", tmp_path / "two.json",
                           **{"DATA.ROOT": data, "OUTPUT": run}))
    assert all(out == "" for out, _ in outputs[1:])
    one, two = (json.loads((tmp_path / name).read_text())["results"] for name in ("one.json", "two.json"))
    assert one == two


def test_a_stop_reaches_all_processes_at_the_same_step(data, tmp_path):
    run = tmp_path / "run"
    processes = start(tmp_path / "train", "train.py", "--config", "configs/quickstart_cmfn.yaml",
                      **{"DATA.ROOT": data, "OUTPUT": run, "SOLVER.EPOCHS": "1000"})
    wait_for_epoch(run, processes)
    processes[1].send_signal(signal.SIGTERM)  # to one that doesn't write
    outputs = finish(processes, status=128 + signal.SIGTERM)
    assert "stopped by another process; go on with the same command and --resume" in outputs[0][0]
    assert torch.load(run / "last.pth", weights_only=True)["epoch"] > 0


@pytest.mark.long
def test_a_process_that_dies_ends_the_others_with_a_message(data, tmp_path):
    run = tmp_path / "run"
    processes = start(tmp_path / "train", "train.py", "--config", "configs/quickstart_cmfn.yaml",
                      **{"DATA.ROOT": data, "OUTPUT": run, "SOLVER.EPOCHS": "1000"})
    wait_for_epoch(run, processes)
    processes[1].kill()
    code, _, error = processes[0].finished(timeout=60)
    assert code == 1 and "Traceback" not in error
    assert "error: process 0 of 2 lost the others" in error and "--resume" in error
    assert torch.load(run / "last.pth", weights_only=True)["epoch"] > 0


def wait_for_epoch(run, processes):
    deadline = time.time() + 120
    while not (run / "train.log").exists() or "epoch 0:" not in (run / "train.log").read_text():
        assert time.time() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.02)
