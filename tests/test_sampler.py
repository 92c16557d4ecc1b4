import numpy as np
import pytest

from data.records import DataError, Record
from data.sampler import IdentitySampler


def records(visible, infrared):
    """visible[i], infrared[i]: how many images identity 10 + i has."""
    return [
        Record(f"/{i}/{k}", 10 + i, 3 if ir else 1, ir)
        for ir, counts in ((False, visible), (True, infrared)) for i, n in enumerate(counts) for k in range(n)
    ]


def test_a_batch_holds_p_identities_and_k_adjacent_images_of_each_in_both_modalities():
    people = records([3, 5, 1, 4, 2], [2, 2, 6, 1, 3])
    sampler = IdentitySampler(people, identities=3, images=4, seed=0)
    for step in range(20):
        visible, infrared, labels = sampler.batch(2, step)
        assert len(set(labels)) == 3
        for rows, night in ((visible, False), (infrared, True)):
            assert [people[row].identity for row in rows] == [sampler.identities[label] for label in labels]
            assert all(people[row].infrared == night for row in rows)
        assert all(len(set(labels[4 * p:4 * p + 4])) == 1 for p in range(3))


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    people = records([4] * 8, [4] * 8)
    first, second = IdentitySampler(people, 4, 2, seed=1), IdentitySampler(people, 4, 2, seed=1)
    for step in range(3):
        second.batch(0, step)
    assert all((a == b).all() for a, b in zip(first.batch(5, 7), second.batch(5, 7)))
    batches = [first.batch(5, 7), first.batch(5, 8), first.batch(6, 7), IdentitySampler(people, 4, 2, 2).batch(5, 7)]
    assert len({tuple(b[0]) for b in batches}) == 4


def test_every_identity_and_image_gets_its_turn_alike():
    people = records([4] * 6, [4] * 6)
    sampler = IdentitySampler(people, 2, 2, seed=0)
    seen = np.bincount(np.concatenate([sampler.batch(0, step)[0] for step in range(1500)]), minlength=48)[:24]
    assert seen.sum() == 6000 and seen.min() > 0.75 * 250 and seen.max() < 1.25 * 250


@pytest.mark.parametrize(
    "visible, infrared, batches", [([10, 10], [3, 3], 6), ([8, 8], [2, 2], 5), ([1, 1], [9, 8], 5)]
)
def test_an_epoch_is_the_larger_modality_over_the_batch_plus_one(visible, infrared, batches):
    assert len(IdentitySampler(records(visible, infrared), 2, 2, 0)) == batches


def test_too_few_identities_name_the_key():
    with pytest.raises(DataError, match="wants 6 identities and the training set has 2: lower SOLVER.IDENTITIES"):
        IdentitySampler(records([1, 1], [1, 1]), 6, 4, 0)
