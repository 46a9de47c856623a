"""How long an epoch is, when validation is due, and in which mode and precision the model runs."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from mmengine.hooks import Hook

from tests.engine.toy import CONFIG, ToyData, write_config
from xmodal.engine import launch
from xmodal.engine.loops import TrainLoop, ValLoop


def loop_of(**options):
    """A loop over 24 samples in batches of 5."""
    loader = dict(batch_size=5, dataset=ToyData(24), **options.pop("loader", {}))
    runner = SimpleNamespace(seed=0, val_loop=object())
    return TrainLoop(runner, loader, **options)


def test_steps_of_an_epoch():
    whole, dropped = loop_of(max_epochs=3), loop_of(max_epochs=3, loader=dict(drop_last=True))
    assert (whole.steps_per_epoch, whole.max_iters) == (5, 15)
    assert (dropped.steps_per_epoch, dropped.max_iters) == (4, 12)
    for loop in (whole, dropped):
        loop.sampler.seek(0, 0)
        assert len(list(loop.dataloader)) == loop.steps_per_epoch
    steps = loop_of(max_steps=12)
    assert (steps.max_iters, steps.max_epochs) == (12, 3)
    assert len(list(steps.dataloader)) == 12
    with pytest.raises(ValueError, match="max_epochs or max_steps"):
        loop_of(max_epochs=1, max_steps=1)


def test_when_validation_is_due():
    due = lambda loop: [s for s in range(loop.max_iters + 1) if loop.validation_due(s)]  # noqa: E731
    assert due(loop_of(max_epochs=5)) == [5, 10, 15, 20, 25]
    assert due(loop_of(max_epochs=5, val_interval=2)) == [10, 20, 25]
    assert due(loop_of(max_epochs=5, val_begin=3)) == [15, 20, 25]
    assert due(loop_of(max_steps=17, val_interval=6)) == [6, 12, 17]
    assert due(loop_of(max_steps=17, val_interval=6, val_begin=7)) == [12, 17]
    without = loop_of(max_epochs=2)
    without.runner.val_loop = None
    assert due(without) == []


def test_where_a_segment_ends():
    loop = loop_of(max_epochs=2)
    assert [loop.segment_end(s) for s in (0, 4, 5, 9)] == [5, 5, 10, 10]
    loop = loop_of(max_steps=12, val_interval=3)
    assert [loop.segment_end(s) for s in (0, 2, 3, 5, 9, 11)] == [3, 3, 5, 6, 10, 12]


class Modes(Hook):
    """Notes whether the model trains, in every step of training and of validation."""

    seen: ClassVar[list[tuple[str, bool]]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(("train", runner.model.training))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(("val", runner.model.training))


def test_training_and_evaluation_modes_alternate(tmp_path):
    options = ["train_cfg.max_epochs=2", "train_cfg.val_interval=1"]
    cfg = launch.prepare(write_config(tmp_path, CONFIG), str(tmp_path / "w"), options)
    cfg.custom_hooks = [dict(type="tests.engine.test_loops.Modes")]
    Modes.seen.clear()
    launch.train(cfg)
    assert Modes.seen == ([("train", True)] * 5 + [("val", False)] * 4) * 2  # 24 samples by 5, 13 by 4


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), (None, torch.float32)])
def test_evaluation_runs_in_the_precision_asked_for(amp, dtype):
    loop = object.__new__(ValLoop)
    step = lambda batch: [{"dtype": torch.nn.functional.linear(batch["x"], torch.eye(2)).dtype}]  # noqa: E731
    loop._runner, loop.amp = SimpleNamespace(device=torch.device("cpu"), model=SimpleNamespace(val_step=step)), amp
    assert loop.predict({"x": torch.ones(3, 2)}) == [{"dtype": dtype}]
    assert loop.predict({"skipped": [{"sample_id": "a"}]}) == []
