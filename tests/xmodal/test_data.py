"""Samplers, collate, loader."""

import itertools

import numpy as np
import pytest
import torch

from xmodal.data.broken import FileDataset, TooManyBrokenFilesError
from xmodal.data.collate import batch_size, collate, split
from xmodal.data.loader import build_dataset, build_loader
from xmodal.data.sampler import EpochSampler, EvalSampler, StreamSampler


def test_an_epoch_has_every_sample_once_and_epochs_differ():
    sampler = EpochSampler(10, seed=3)
    orders = []
    for epoch in range(3):
        sampler.seek(epoch)
        keys = list(sampler)
        assert {e for e, _ in keys} == {epoch}
        orders.append([i for _, i in keys])
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1] != orders[2]
    sampler.seek(1)
    assert [i for _, i in sampler] == orders[1]
    assert [i for _, i in EpochSampler(10, seed=4)] != orders[0]
    assert [i for _, i in EpochSampler(10, shuffle=False)] == list(range(10))


def test_ranks_share_an_epoch_and_have_equally_many():
    ranks = [EpochSampler(10, seed=1, rank=r, world=4) for r in range(4)]
    parts = [[i for _, i in sampler] for sampler in ranks]
    assert [len(p) for p in parts] == [3] * 4 == [len(s) for s in ranks]
    assert set(itertools.chain(*parts)) == set(range(10))
    whole = [i for _, i in EpochSampler(10, seed=1)]
    joint = [parts[j % 4][j // 4] for j in range(12)]
    assert joint[:10] == whole  # batch k of the ranks together is batch k of one process


def test_seek_goes_on_anywhere():
    sampler = EpochSampler(10, seed=1, rank=1, world=2)
    sampler.seek(2)
    whole = list(sampler)
    sampler.seek(2, 3)
    assert list(sampler) == whole[3:]


def test_stream_concatenates_orders_and_crosses_their_borders():
    sampler = StreamSampler(5, total=12, seed=2)
    keys = list(sampler)
    assert [e for e, _ in keys] == [0] * 5 + [1] * 5 + [2] * 2
    assert sorted(i for _, i in keys[:5]) == sorted(i for _, i in keys[5:10]) == list(range(5))
    sampler.seek(0, 7)
    assert list(sampler) == keys[7:]
    ranks = [list(StreamSampler(5, total=6, seed=2, rank=r, world=2)) for r in range(2)]
    assert [ranks[j % 2][j // 2] for j in range(12)] == keys


def test_evaluation_counts_every_sample_once():
    parts = [list(EvalSampler(10, r, 4)) for r in range(4)]
    assert sorted(itertools.chain(*parts)) == list(range(10))
    assert [len(p) for p in parts] == [3, 3, 2, 2]


def test_empty_sets_are_refused():
    with pytest.raises(ValueError, match="empty"):
        EpochSampler(0)


def item(i, **more):
    return {"clips": torch.full((1, 2), i), "feat": np.full(3, i, np.float32), "label": i, "sample_id": f"s{i}", **more}


def test_collate_stacks_lists_and_sets_aside():
    batch = collate(
        [item(0), {"skipped": "bad", "reason": "empty"}, item(2, replaced={"sample_id": "s9", "reason": "x"})]
    )
    assert batch["clips"].shape == (2, 1, 2)
    assert batch["feat"].dtype == torch.float32
    assert batch["label"].tolist() == [0, 2]
    assert batch["label"].dtype == torch.int64
    assert batch["sample_id"] == ["s0", "s2"]
    assert batch["skipped"] == [{"sample_id": "bad", "reason": "empty"}]
    assert batch["replaced"] == [{"sample_id": "s9", "reason": "x"}]
    assert batch_size(batch) == 2


def test_collate_of_nothing_readable():
    batch = collate([{"skipped": "a", "reason": "r"}, {"skipped": "b", "reason": "r"}])
    assert list(batch) == ["skipped"]
    assert batch_size(batch) == 0


def test_collate_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"clips of sample 's1' has shape \(2, 2\), that of 's0' \(1, 2\)"):
        collate([item(0), {**item(1), "clips": torch.zeros(2, 2)}])
    with pytest.raises(ValueError, match=r"other keys: \['view'\].*'s1'"):
        collate([item(0), item(1, view=3)])


def test_split_keeps_samples_together():
    batch = collate([item(i) for i in range(5)])
    pieces = split(batch, 3)
    assert [p["sample_id"] for p, _ in pieces] == [["s0", "s1"], ["s2"], ["s3", "s4"]]
    assert [share for _, share in pieces] == pytest.approx([2 / 5, 1 / 5, 2 / 5])
    assert len(split(batch, 9)) == 5
    assert split(batch, 1)[0][0] is batch
    with pytest.raises(ValueError, match="cannot cut 'odd'"):
        split({**batch, "odd": torch.zeros(2)}, 2)


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, key):
        return {"x": torch.tensor(key[1]), "sample_id": str(key)}


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_leaves_the_global_random_state_alone(workers):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    sampler = EpochSampler(8, seed=1)
    loader = build_loader({"batch_size": 3, "num_workers": workers, "persistent_workers": True}, Numbers(), sampler)
    for epoch in range(2):
        sampler.seek(epoch, 3 * epoch)
        keys = [s for batch in loader for s in batch["sample_id"]]
        assert keys == [str(k) for k in sampler]
    assert torch.equal(before, torch.get_rng_state())


class Seeded(Numbers):
    def __init__(self, seed=0):
        self.seed = seed


def test_a_data_set_receives_the_runs_seed_unless_it_says_its_own():
    assert build_dataset(dict(type=Seeded), seed=5).seed == 5
    assert build_dataset(dict(type=Seeded, seed=3), seed=5).seed == 3
    assert isinstance(build_dataset(dict(type=Numbers), seed=5), Numbers)  # takes no seed


class Some(FileDataset):
    """Files of which the first few are broken."""

    def __init__(self, count, broken, max_broken=0.01, test_mode=True, seed=0):
        super().__init__([f"f{i}" for i in range(count)], "a list", test_mode, seed, max_broken)
        self.first = broken

    def test_item(self, index):
        return self.train_item(index, np.random.default_rng(0))

    def train_item(self, index, rng):
        if index < self.first:
            raise OSError("broken")
        return {"sample_id": f"f{index}", "draw": int(rng.integers(10**9))}


@pytest.mark.parametrize(("count", "share", "allowed"), [(20, 0.01, 5), (20, 0.25, 5), (20, 0.5, 10), (1000, 0.01, 10)])
def test_so_many_files_may_be_broken(count, share, allowed):
    files = Some(count, allowed + 1, share)
    assert [files[i]["skipped"] for i in range(allowed)] == [f"f{i}" for i in range(allowed)]
    assert len(files.broken) == allowed
    with pytest.raises(TooManyBrokenFilesError, match=f"{allowed + 1} of {count} files"):
        files[allowed]


def test_replacements_depend_on_seed_and_epoch():
    draw = lambda seed, epoch: Some(1000, 1, test_mode=False, seed=seed)[epoch, 0]["sample_id"]  # noqa: E731
    assert draw(0, 0) == draw(0, 0) != "f0"
    assert len({draw(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}) > 4
    files = Some(1000, 1, test_mode=False)
    assert files[0, 7]["draw"] != files[1, 7]["draw"]
    assert files[1, 7]["draw"] == Some(1000, 1, test_mode=False)[1, 7]["draw"]
    assert files[1, 7]["draw"] != Some(1000, 1, test_mode=False, seed=1)[1, 7]["draw"]
