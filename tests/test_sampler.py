import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from data.records import DataError, Record
from data.sampler import BlindChunks, Chunks, Distinct, Sampler, WithReplacement


def records(visible, infrared):
    """visible[i], infrared[i]: how many images identity 10 + i has."""
    return [
        Record(f"/{i}/{k}", 10 + i, 3 if ir else 1, ir)
        for ir, counts in ((False, visible), (True, infrared)) for i, n in enumerate(counts) for k in range(n)
    ]


def test_a_batch_holds_p_identities_and_k_adjacent_images_of_each_in_both_modalities():
    people = records([3, 5, 1, 4, 2], [2, 2, 6, 1, 3])
    sampler = WithReplacement(people, identities=3, images=4, seed=0)
    for step in range(20):
        drawn = sampler.batch(2, step)
        labels = drawn.visible.labels
        assert len(set(labels)) == 3 and (drawn.infrared.labels == labels).all()
        for (rows, _), night in ((drawn.visible, False), (drawn.infrared, True)):
            assert [people[row].identity for row in rows] == [sampler.identities[label] for label in labels]
            assert all(people[row].infrared == night for row in rows)
        assert all(len(set(labels[4 * p:4 * p + 4])) == 1 for p in range(3))


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    people = records([4] * 8, [4] * 8)
    first, second = WithReplacement(people, 4, 2, seed=1), WithReplacement(people, 4, 2, seed=1)
    for step in range(3):
        second.batch(0, step)
    assert written([first.batch(5, 7)]) == written([second.batch(5, 7)])
    batches = [first.batch(5, 7), first.batch(5, 8), first.batch(6, 7), WithReplacement(people, 4, 2, 2).batch(5, 7)]
    assert len({tuple(b.visible.rows) for b in batches}) == 4


def test_the_plan_of_an_epoch_is_its_batches():
    people = records([4] * 8, [4] * 8)
    for sampler in (kind(people, 4, 2, seed=1) for kind in (WithReplacement, Distinct, Chunks)):
        batches = [sampler.batch(3, step) for step in range(sampler.length(3))]
        assert batches and written(sampler.plan(3)) == written(batches)


def test_numbers_of_before_are_drawn_again():
    """Figures of trainings rest on which images are drawn."""
    drawn = WithReplacement(records([4] * 6, [3] * 6), 3, 2, seed=5).batch(1, 2)
    assert [part.tolist() for draw in drawn for part in draw] == [
        [7, 6, 19, 17, 10, 11], [1, 1, 4, 4, 2, 2], [29, 28, 38, 38, 32, 30], [1, 1, 4, 4, 2, 2],
    ]


def test_every_identity_and_image_gets_its_turn_alike():
    people = records([4] * 6, [4] * 6)
    sampler = WithReplacement(people, 2, 2, seed=0)
    seen = np.bincount(np.concatenate([sampler.batch(0, step).visible.rows for step in range(1500)]), minlength=48)[:24]
    assert seen.sum() == 6000 and seen.min() > 0.75 * 250 and seen.max() < 1.25 * 250


@pytest.mark.parametrize(
    "visible, infrared, batches", [([10, 10], [3, 3], 6), ([8, 8], [2, 2], 5), ([1, 1], [9, 8], 5)]
)
def test_an_epoch_is_the_larger_modality_over_the_batch_plus_one(visible, infrared, batches):
    sampler = WithReplacement(records(visible, infrared), 2, 2, 0)
    assert sampler.length(0) == sampler.length(7) == len(sampler.plan(0)) == batches


def test_the_last_batch_is_not_announced():
    few, many = ([1, 1], [1, 1]), ([10, 10], [3, 3])
    announced = [WithReplacement(records(*images), 2, 2, 0).announced(0) for images in (many, few)]
    assert announced == [5, 1]


def test_distinct_images_are_drawn_again_only_where_there_are_too_few():
    people = records([9, 4, 3, 1], [4, 2, 5, 3])
    sampler = Distinct(people, identities=4, images=4, seed=0)
    assert sampler.length(0) == 17 // 16 + 1
    first = [set() for _ in range(4)]  # of person 0, in each place
    for step in range(60):
        drawn = sampler.batch(0, step)
        for (rows, labels), night in ((drawn.visible, False), (drawn.infrared, True)):
            assert len(rows) == 16 and all(people[row].infrared == night for row in rows)
            for label in range(4):
                mine = rows[labels == label]
                there = {i for i, r in enumerate(people) if (r.identity, r.infrared) == (10 + label, night)}
                times = np.bincount(mine)[mine]
                assert {*mine.tolist()} <= there and len({*mine.tolist()}) == min(4, len(there))
                assert times.max() == -(-4 // len(there)) and times.max() - times.min() <= 1
        for place, row in enumerate(drawn.visible.rows[drawn.visible.labels == 0]):
            first[place].add(int(row))
    assert first == [{*range(9)}] * 4


@pytest.mark.parametrize("sampler", [WithReplacement, Distinct, Chunks])
def test_too_few_identities_name_the_key(sampler):
    with pytest.raises(DataError, match="wants 6 identities and the training set has 2: lower SOLVER.IDENTITIES"):
        sampler(records([1, 1], [1, 1]), 6, 4, 0)


# --- Chunks -----------------------------------------------------------------------------------------------------------

COUNTS = [9, 5, 6, 4, 7, 4], [5, 8, 4, 9, 6, 4]  # of people 0 to 5: no one is short of K = 2


def chunks(counts=COUNTS, identities=3, images=2, seed=0) -> Chunks:
    return Chunks(records(*counts), identities, images, seed)


def written(plan):
    """A plan as lists."""
    return [[part.tolist() for draw in drawn for part in draw] for drawn in plan]


def test_a_batch_of_chunks_is_k_images_of_each_modality_of_p_different_identities():
    people, sampler = records(*COUNTS), chunks()
    for epoch in range(5):
        for drawn in sampler.plan(epoch):
            labels = drawn.visible.labels
            assert (labels == drawn.infrared.labels).all()
            assert len(set(labels[::2])) == 3 and (labels[::2] == labels[1::2]).all() and len(labels) == 6
            for (rows, _), night in ((drawn.visible, False), (drawn.infrared, True)):
                assert [people[row].identity for row in rows] == [sampler.identities[label] for label in labels]
                assert all(people[row].infrared == night for row in rows)


def test_no_image_is_shown_twice_in_an_epoch_of_chunks():
    sampler = chunks()
    for epoch in range(5):
        plan = sampler.plan(epoch)
        for part in ("visible", "infrared"):
            rows = np.concatenate([getattr(drawn, part).rows for drawn in plan])
            assert len({*rows.tolist()}) == len(rows)


def test_an_epoch_of_chunks_ends_where_fewer_than_p_identities_have_one_left():
    fewest = np.minimum(*map(np.array, COUNTS)) // 2  # chunks of each person: 2, 2, 2, 2, 3, 2
    lengths = set()
    for epoch in range(30):
        plan = chunks().plan(epoch)
        given = np.bincount(np.concatenate([drawn.visible.labels[::2] for drawn in plan]), minlength=6)
        assert (given <= fewest).all() and ((fewest - given) > 0).sum() < 3
        lengths.add(len(plan))
    assert lengths <= {3, 4} and 4 in lengths  # 13 chunks at most, 3 a batch


def test_an_identity_gives_as_many_images_as_its_scarcer_modality_has():
    sampler = chunks(([5, 5], [7, 4]), identities=1)
    for epoch in range(5):
        labels = np.concatenate([drawn.visible.labels[::2] for drawn in sampler.plan(epoch)])
        assert np.bincount(labels).tolist() == [2, 2]  # 5 // 2 and 4 // 2
        assert sampler.length(epoch) == 4


def test_what_is_left_over_waits_for_another_epoch():
    sampler = chunks(([5], [5]), identities=1)
    seen = [np.concatenate([drawn.infrared.rows for drawn in sampler.plan(epoch)]) for epoch in range(30)]
    assert all(len(rows) == 4 for rows in seen) and {*np.concatenate(seen).tolist()} == {5, 6, 7, 8, 9}


@pytest.mark.parametrize("visible, infrared", [(3, 9), (9, 3), (1, 2), (1, 1)])
def test_an_identity_with_few_images_gives_one_chunk(visible, infrared):
    sampler = chunks(([visible, 8], [infrared, 8]), identities=1, images=4)
    for epoch in range(5):
        mine = [drawn for drawn in sampler.plan(epoch) if drawn.visible.labels[0] == 0]
        assert len(mine) == 1 and sampler.length(epoch) == 3
        for part, count in ((mine[0].visible, visible), (mine[0].infrared, infrared)):
            assert len(part.rows) == 4 and len({*part.rows.tolist()}) <= count
            assert count < 4 or len({*part.rows.tolist()}) == 4  # again only where there are too few


def test_each_epoch_and_seed_has_another_plan_and_every_process_the_same():
    plans = [written(chunks(seed=seed).plan(epoch)) for seed in (0, 1) for epoch in range(3)]
    assert len({str(plan) for plan in plans}) == 6
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(plan_elsewhere, 2).result() == plans[2]
    assert written(chunks().plan(2)) == plans[2]
    asked = chunks()
    backwards = [written(asked.plan(epoch)) for epoch in (2, 1, 0)]  # nor does it matter what was asked before
    assert backwards == plans[2::-1]


def plan_elsewhere(epoch: int):
    return written(chunks().plan(epoch))


def test_chunks_take_identities_evenly():
    sampler = chunks(([2] * 6, [2] * 6), identities=2)
    first = [label for epoch in range(600) for label in {*sampler.batch(epoch, 0).visible.labels.tolist()}]
    counts = np.bincount(first, minlength=6)
    assert counts.sum() == 1200 and counts.min() > 150 and counts.max() < 250  # 200 each, ±12


def test_a_regdb_of_ten_images_each_has_the_epoch_that_the_authors_run():
    """206 people with 10 images of each modality, 12 a batch, K = 5: 34 batches, at times 33 or fewer."""
    people = records([10] * 206, [10] * 206)
    lengths = [Chunks(people, 12, 5, seed).length(0) for seed in range(20)]
    assert np.median(lengths) == 34 and max(lengths) == 34 and min(lengths) >= 32


# --- BlindChunks ------------------------------------------------------------------------------------------------------

def blind(counts=COUNTS, identities=3, images=4, seed=0) -> BlindChunks:
    return BlindChunks(records(*counts), identities, images, seed)


def test_a_batch_of_blind_chunks_is_k_images_of_p_identities_whatever_their_modality():
    people, sampler, mixes = records(*COUNTS), blind(), set()
    for epoch in range(5):
        for drawn in sampler.plan(epoch):
            both = np.concatenate([drawn.visible.labels, drawn.infrared.labels])
            assert sorted(np.bincount(both, minlength=6).tolist()) == [0, 0, 0, 4, 4, 4]
            assert {*drawn.identities.tolist()} == {*both.tolist()} and len(drawn.identities) == 3
            for (rows, labels), night in ((drawn.visible, False), (drawn.infrared, True)):
                assert [people[row].identity for row in rows] == [sampler.identities[label] for label in labels]
                assert all(people[row].infrared == night for row in rows)
            mixes.add(len(drawn.visible.rows))
    assert len(mixes) > 3


def test_no_image_is_shown_twice_in_an_epoch_of_blind_chunks_and_it_ends_where_fewer_than_p_are_left():
    chunks_of = np.add(*map(np.array, COUNTS)) // 4
    for epoch in range(5):
        plan = blind().plan(epoch)
        rows = np.concatenate([part.rows for drawn in plan for part in drawn])
        assert len({*rows.tolist()}) == len(rows) == 12 * len(plan)
        given = np.bincount(np.concatenate([part.labels for drawn in plan for part in drawn]), minlength=6) // 4
        assert (given <= chunks_of).all() and ((chunks_of - given) > 0).sum() < 3


def test_an_identity_with_few_images_of_both_modalities_gives_one_blind_chunk():
    sampler = blind(([1, 8], [1, 8]), identities=1)
    mine = [drawn for drawn in sampler.plan(0) if drawn.identities.tolist() == [0]]
    assert len(mine) == 1 and sampler.length(0) == 5
    assert len(mine[0].visible.rows) + len(mine[0].infrared.rows) == 4


def test_a_blind_batch_may_be_of_one_modality():
    sampler = blind(([4, 4, 0], [0, 0, 4]), identities=2, images=4)
    sizes = {tuple(len(part.rows) for part in sampler.batch(epoch, 0)) for epoch in range(20)}
    assert sizes == {(8, 0), (4, 4)}


def test_a_sampler_must_say_its_batches():
    plain = Sampler(records([1], [1]), 1, 1, 0)
    for call in (lambda: plain.length(0), lambda: plain.batch(0, 0), lambda: plain.plan(0)):
        with pytest.raises(NotImplementedError):
            call()
