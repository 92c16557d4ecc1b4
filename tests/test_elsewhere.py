"""A network tested on another data set than it was trained on; queries and gallery of one modality."""

import json

import compare_methods
import numpy as np
import pytest
from programs import run
from shared import SMALL, copy_of
from test_compare_methods import results as compared
from test_compare_results import run as compare
from test_compare_results import trial, write
from test_reproduce_table import refused as kept_out
from test_reproduce_table import results as table_results
from trees import llcm_tree, regdb_tree, sysu_tree

from assembly.experiment import ExperimentError
from assembly.recipe import build_network
from configs.load import load_config
from data.dataset import open_benchmark
from data.llcm import LLCM
from data.regdb import RegDB
from data.sysu import SYSU
from utils.reporting.report import notes
from utils.training.checkpoint import save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:the galleries of")
SMALL_IMAGES = ["DATA.HEIGHT", "32", "DATA.WIDTH", "16", "MODEL.BACKBONE", "resnet18", *SMALL]


def untrained_run(folder, config, data, **changes):
    """A run as train.py leaves it, of a network without any update."""
    options = [*SMALL_IMAGES, "DATA.ROOT", str(data.root), "OUTPUT", str(folder)]
    cfg = load_config(config, options + [word for pair in changes.items() for word in pair])
    identities = sorted({record.identity for record in data.train})
    folder.mkdir()
    save_checkpoint(folder / "last.pth", {
        "config": cfg.dump(), "model": build_network(cfg, len(identities), pretrained=False).state_dict(),
        "identities": identities, "epoch": 1, "step": 0, "data": data.fingerprint(),
    })
    return folder


def read(path):
    return json.loads(path.read_text())


# On another data set


def test_image_size_and_network_are_the_trainings_protocols_the_other_sets(trained, shared_data, tmp_path):
    original = trained("quickstart_base")
    folder, llcm = copy_of(original, tmp_path / "run"), LLCM(llcm_tree(tmp_path / "llcm"))
    before = (folder / "results.json").read_bytes()
    done = run("test.py", "--checkpoint", folder, "DATA.NAME", "llcm", "DATA.ROOT", llcm.root, drawn=False)
    own, found = json.loads(before), read(folder / "results-on-llcm.json")
    assert (folder / "results.json").read_bytes() == before and (folder / "results-on-llcm-report.html").exists()
    assert [r["protocol"] for r in found["results"][:2]] == llcm.default_protocols()
    assert {r["trained_on"] for r in found["results"]} == {"synthetic"}
    assert found["data"]["fingerprint"] == llcm.fingerprint()
    training = {"name": "synthetic", "fingerprint": open_benchmark("synthetic", shared_data).fingerprint()}
    assert found["checkpoint"]["trained_on"] == own["checkpoint"]["trained_on"] == training
    assert found["config"]["MODEL"] == own["config"]["MODEL"] and found["parameters"] == own["parameters"]
    assert [found["config"]["DATA"][key] for key in ("HEIGHT", "WIDTH")] == [64, 32]
    assert not any("trained_on" in r for r in own["results"])
    assert "llcm/ir-to-vis (trained on synthetic)" in done.stdout
    assert "The network was trained on synthetic, and tested on llcm; the figures compare with none" in done.stdout


@pytest.mark.parametrize("there", ["regdb", "synthetic"])
def test_a_short_network_and_a_full_one_on_each_others_data(there, thin, shared_data, tmp_path):
    sysu, regdb = SYSU(shared_data, "synthetic"), RegDB(regdb_tree(tmp_path / "data", split=3), split=3)
    if there == "synthetic":
        folder = untrained_run(tmp_path / "run", "configs/regdb_cmfn.yaml", regdb, **{"DATA.SPLIT": "3"})
        options, trained_on = ["DATA.NAME", "synthetic", "DATA.ROOT", sysu.root], regdb
    else:
        name = {"DATA.NAME": "synthetic", "TEST.PROTOCOLS": "['synthetic/all/multi-shot/random']"}
        folder = untrained_run(tmp_path / "run", "configs/sysu_cmfn.yaml", sysu, **name)
        options, trained_on = ["DATA.NAME", "regdb", "DATA.SPLIT", "3", "DATA.ROOT", regdb.root], sysu
    run("test.py", "--checkpoint", folder, *options, "TEST.FLIP", "false", drawn=False)
    file = folder / {"regdb": "results-on-regdb-3.json", "synthetic": "results-on-synthetic.json"}[there]
    saved = read(file)
    own = {"name": trained_on.name, "fingerprint": trained_on.fingerprint()}
    assert saved["checkpoint"]["trained_on"] == own | ({"split": 3} if there == "synthetic" else {})
    tested_on = {"regdb": regdb, "synthetic": sysu}[there]
    assert {r["protocol"] for r in saved["results"]} == {*tested_on.default_protocols()}
    assert saved["config"]["MODEL"]["STAGES"] == {"regdb": 4, "synthetic": 3}[there]


def test_directions_that_compress_are_learned_where_the_network_was(trained, tmp_path):
    folder, llcm = copy_of(trained("quickstart_base"), tmp_path / "run"), llcm_tree(tmp_path / "llcm")
    words = ["test.py", "--checkpoint", folder, "DATA.NAME", "llcm", "DATA.ROOT", llcm, "EMBEDDING.DIM", "4"]
    done = run(*words, check=False)
    assert "EMBEDDING.DIM takes directions that are learned on synthetic, as the network was" in done.stderr


def test_tables_take_no_row_of_another_training_set(tmp_path):
    words = "is of a network that was trained on llcm; those of the table were trained on SYSU-MM01"
    assert words in kept_out(table_results(tmp_path, trained_on="llcm"), folder=tmp_path)
    other = compared()
    other["results"][0]["trained_on"] = "llcm"
    with pytest.raises(ExperimentError, match="was tested on another data set than llcm, its own"):
        compare_methods.check_comparable(other, compared())
    a, b, c = (write(tmp_path / f"{n}.json", [trial([1, 2])], **{"trained_on": n} if n else {}) for n in ("", "x", "y"))
    for first, second, names in ((a, b, "this data set and x"), (b, c, "x and y")):
        assert f"trained on ({names})" in compare(first, second, check=False).stderr
    assert "trained on x" in compare(b, b, "--resamples", "100").stdout


def test_a_mean_over_splits_of_one_model_is_called_so():
    one = {"path": "last.pth", "sha256": "a", "epochs": 3}
    saved = {"data": {"name": "regdb"}, "results": [{"trained_on": "sysu"}], "checkpoint": [one] * 10}
    assert "A mean over 10 splits of the data, each of which is a trial, of one model." in notes(saved)
    several = saved | {"checkpoint": [one | {"sha256": str(number)} for number in range(10)]}
    assert "A mean over 10 models, each of which is a trial." in notes(several)


# Within a modality


def ignored_by(protocol, query, gallery):
    return protocol.query_ignores[query] == protocol.gallery_group[gallery]


def test_sysu_searches_each_modality_but_not_a_querys_own_camera(tmp_path):
    data = SYSU(sysu_tree(tmp_path, images=12))
    cameras = np.array([record.camera for record in data.test])
    assert not {*data.one_modality_protocols()} & {*data.protocol_names()}
    for kind, own in (("vis-to-vis", {1, 2, 4, 5}), ("ir-to-ir", {3, 6})):
        protocol = data.protocol(f"sysu/{kind}/single-shot/random")
        trial = protocol.trials[3]
        assert {*cameras[trial.query]} == {*cameras[trial.gallery]} == own
        assert len(trial.query) == 2 * 12 * len(own) and len(trial.gallery) == 2 * len(own)
        ignored = ignored_by(protocol, trial.query[:, None], trial.gallery[None])
        assert (ignored == (cameras[trial.query, None] == cameras[trial.gallery])).all()
    across = data.protocol("sysu/all/single-shot/random").trials
    within = data.protocol("sysu/vis-to-vis/single-shot/random").trials
    assert all((a.gallery == b.gallery).all() for a, b in zip(across, within))  # they stand beside each other
    assert len(data.protocol("sysu/ir-to-ir/multi-shot/random").trials[0].gallery) == 2 * 2 * 10


def test_llcm_searches_each_modality_by_its_own_rule(tmp_path):
    data = LLCM(llcm_tree(tmp_path))
    for name, infrared in (("llcm/vis-to-vis", False), ("llcm/ir-to-ir", True)):
        protocol = data.protocol(name)
        assert len(protocol.trials) == 10
        trial = protocol.trials[2]
        assert (len(trial.query), len(trial.gallery)) == (12, 6)
        for query in trial.query:
            assert data.test[query].infrared == infrared
            for other in trial.gallery:
                a, b = data.test[query], data.test[other]
                assert ignored_by(protocol, query, other) == ((a.identity, a.camera) == (b.identity, b.camera))


def test_regdb_leaves_each_image_out_of_its_own_gallery(tmp_path):
    data = RegDB(regdb_tree(tmp_path))
    for name, infrared in zip(data.one_modality_protocols(), (False, True)):
        assert name.endswith("/leave-one-out")
        protocol = data.protocol(name)
        trial, = protocol.trials
        rows = [row for row, record in enumerate(data.test) if record.infrared == infrared]
        assert trial.query.tolist() == trial.gallery.tolist() == rows
        assert (ignored_by(protocol, trial.query[:, None], trial.gallery[None]) == np.eye(len(rows), dtype=bool)).all()
    assert (data.protocol("regdb/1/visible-to-thermal").query_ignores == -1).all()


def test_a_run_is_tested_within_its_modalities_beside_across(trained, tmp_path):
    output, words = tmp_path / "one.json", ["TEST.FLIP", "false", "TEST.WEIGHTINGS", "['neck']"]
    own = ["--protocol", "one-modality", "--protocol", "synthetic/all/single-shot/random"]
    run("test.py", "--checkpoint", trained("quickstart_base"), *own, "--output", output, *words, drawn=False)
    assert [result["protocol"].removeprefix("synthetic/") for result in read(output)["results"]] == [
        "vis-to-vis/single-shot/random", "ir-to-ir/single-shot/random",
        "vis-to-vis/multi-shot/random", "ir-to-ir/multi-shot/random", "all/single-shot/random",
    ]


@pytest.mark.parametrize("method, options, words", [
    ("quickstart_mpanet", ["MODEL.MPANET.RANKING", "distance"], "compares images of one modality, too; with MODEL."),
    ("quickstart_mcja", ["TEST.RERANK", "mser"], "or both of one, and MSER ranks one modality for the other"),
])
def test_what_compares_across_modalities_alone_is_refused_before_any_work(method, options, words, trained, tmp_path):
    own = ["--protocol", "one-modality", "--output", tmp_path / "a.json"]
    done = run("test.py", "--checkpoint", trained(method), *own, *options, check=False)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
