"""Batches that are copied beside the step before: order, what travels, and when."""

import pytest
import torch

from tests.engine.test_loops import loop_of
from xmodal.data.ahead import LARGE, SideStream, copied_ahead, is_worth


class Noted:
    """A courier that notes what it does."""

    def __init__(self, key="n"):
        self.key, self.done = key, []

    def send(self, batch):
        self.done.append(("send", batch[self.key]))
        return batch

    def receive(self, batch):
        self.done.append(("receive", batch[self.key]))
        return batch


def test_the_next_batch_is_sent_before_the_current_one_is_handed_out():
    courier, seen = Noted(), []
    for batch in copied_ahead(({"n": n} for n in range(3)), courier):
        seen.append(batch["n"])
        courier.done.append(("step", batch["n"]))
    assert seen == [0, 1, 2]
    order = [("send", 0), ("send", 1), ("receive", 0), ("step", 0), ("send", 2), ("receive", 1), ("step", 1)]
    assert courier.done == [*order, ("receive", 2), ("step", 2)]
    assert list(copied_ahead([], courier)) == []


def test_small_tensors_labels_and_pageable_memory_go_with_the_step(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    assert is_worth(torch.zeros(LARGE, dtype=torch.uint8))
    assert is_worth(torch.zeros(LARGE // 4))
    assert not is_worth(torch.zeros(LARGE - 1, dtype=torch.uint8))
    assert not is_worth(torch.zeros(LARGE, dtype=torch.int64))  # labels, which the host checks
    assert not is_worth("a name")
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: False)
    assert not is_worth(torch.zeros(LARGE, dtype=torch.uint8))


@pytest.mark.parametrize("length", [dict(max_epochs=2), dict(max_steps=7, val_interval=3)])
def test_a_loop_reads_the_same_batches_when_they_are_sent_ahead(length):
    read = {}
    for name in ("plain", "ahead"):
        loop = loop_of(**length, loader=dict(copy_ahead=name == "ahead"))
        assert loop.courier is None, "only a GPU has a side stream"
        if name == "ahead":
            loop.courier = Noted("sample_id")
        read[name] = [batch["sample_id"] for batch in loop._batches()]
    assert len(read["plain"]) == (7 if "max_steps" in length else 5)
    assert read["ahead"] == read["plain"]
    assert [what for what, _ in loop.courier.done[:3]] == ["send", "send", "receive"]


@pytest.mark.gpu
def test_the_side_stream_brings_the_same_numbers():
    side = SideStream(torch.device("cuda"))
    given = [{"x": torch.randn(LARGE).pin_memory(), "label": torch.arange(4)} for _ in range(5)]
    for got, want in zip(copied_ahead(given, side), given, strict=True):
        assert got["x"].is_cuda
        assert got["label"] is want["label"]
        torch.testing.assert_close((got["x"] @ got["x"]).cpu(), want["x"] @ want["x"], rtol=1e-3, atol=1e-3)
