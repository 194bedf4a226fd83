"""The minibatches of an epoch, the domains of CivilComments, and the mean that stands for torch_scatter's."""

from itertools import pairwise

import pytest
import torch

from gentangle import InputError
from gentangle.matching.wilds_data import FishEpoch, domains, group_means, passes, tables_hash


def test_group_means_are_those_of_a_loop():
    values, groups = torch.tensor([1.0, 2, 4, 8]), torch.tensor([0, 2, 2, 0])
    expected = [4.5, 0, 3, 0]
    assert group_means(src=values, index=groups, dim_size=4, reduce="mean").tolist() == expected
    with pytest.raises(NotImplementedError, match="'sum'"):
        group_means(values, groups, 4, "sum")


def test_passes_see_every_row_before_any_again():
    batches = passes(rows=10, batch_size=4, count=5, seed=0)
    assert [len(batch) for batch in batches] == [4] * 5
    seen = torch.cat(batches)
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert not passes(rows=10, batch_size=4, count=0, seed=0)


ROWS = {"a": torch.arange(10), "b": torch.arange(10, 16), "c": torch.arange(16, 17), "d": torch.arange(17, 24)}


def test_an_epoch_goes_through_each_domain_once_and_repeats_its_last_minibatch():
    epoch = FishEpoch(ROWS, batch_size=2, per_step=2)
    steps = epoch.steps(0)
    for name, rows in ROWS.items():
        drawn = [step[name].tolist() for step in steps if name in step]
        new = [batch for before, batch in pairwise([None, *drawn]) if batch != before]
        flat = [row for batch in new for row in batch]
        assert len(flat) == len(set(flat))
        assert set(flat) <= set(rows.tolist())
    assert all(len(step) == 2 and "c" not in step for step in steps)  # one row is below the least
    assert epoch.steps(0)[0].keys() == steps[0].keys()


def test_an_epoch_ends_when_too_few_domains_have_more_than_one_minibatch():
    epoch = FishEpoch(ROWS, batch_size=2, per_step=2)
    left = {name: len(rows) // 2 for name, rows in ROWS.items() if len(rows) > 1}
    for step in epoch.steps(3):
        assert sum(count > 1 for count in left.values()) >= 2
        for name in step:
            left[name] = max(1, left[name] - 1)
    assert sum(count > 1 for count in left.values()) < 2


def test_several_processes_share_every_minibatch_evenly():
    steps = FishEpoch(ROWS, batch_size=3, per_step=2, least=2, processes=2).steps(0)
    assert {len(rows) for step in steps for rows in step.values()} == {2}


def test_no_step_is_an_error():
    with pytest.raises(InputError, match=r"0 of 4 domains have two minibatches of 16, and a step visits 2: lower"):
        FishEpoch(ROWS, batch_size=16, per_step=2).steps(0)


def test_the_domains_of_civilcomments_are_the_authors(loaded):
    found = domains("civilcomments", loaded["civilcomments"])
    assert len(found) == 18
    metadata = loaded["civilcomments"].get_subset("train").metadata_array
    male_and_toxic = (metadata[:, 0] == 1) & (metadata[:, 15] == 1)
    assert found["y:1_male:1"].tolist() == male_and_toxic.nonzero()[:, 0].tolist()
    neither = (metadata[:, :8].sum(dim=1) == 0) & (metadata[:, 15] == 0)
    assert found["y:0_none:1"].tolist() == neither.nonzero()[:, 0].tolist()


def test_the_other_domains_part_the_training_rows(loaded):
    for name, dataset in loaded.items():
        if name != "civilcomments":
            rows = torch.cat([*domains(name, dataset).values()])
            assert sorted(rows.tolist()) == list(range(len(dataset.get_subset("train"))))


def test_the_hash_is_the_labels_and_domains(loaded):
    hashes = {tables_hash(dataset) for dataset in loaded.values()}
    assert len(hashes) == len(loaded)
