"""What is logged: means over samples, of their interval and of the epoch, over all processes."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from xmodal.engine import meter
from xmodal.engine.loops import TrainLoop
from xmodal.engine.meter import Means, Meter
from xmodal.engine.report import ReportHook

SIZES, LOSSES = [5, 3, 4, 4, 2], [1.0, 2.0, 3.0, 4.0, 5.0]


def drive(monkeypatch, sizes=SIZES, losses=LOSSES, interval=2, world=1, rates=(0.1,), seconds=1.0):
    """Numbers of every log line and of the epoch, of an epoch with these batches; each step takes `seconds`."""
    clock = [0.0]
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    logs = {}

    def call_hook(name, step, values):
        assert name == "after_log"
        logs[step] = values

    groups = [{"lr": rate} for rate in rates]
    loop = TrainLoop.__new__(TrainLoop)
    loop._runner = SimpleNamespace(
        world_size=world, call_hook=call_hook, log_interval=interval,
        visualizer=SimpleNamespace(add_scalars=lambda *a, **k: None),
        optim_wrapper=SimpleNamespace(grad_norm=None, optimizer=SimpleNamespace(param_groups=groups)),
    )  # fmt: skip
    loop._iter, loop._max_steps, loop.meter = 0, len(sizes), Meter()
    loop.steps_per_epoch = len(sizes)
    loop.meter.begin(0)
    for size, loss in zip(sizes, losses, strict=True):
        loop.meter.batch_is_here()
        clock[0] += seconds
        loop.log({"loss": torch.tensor(loss)}, {"image": torch.zeros(size, 1)})
        loop._iter += 1
    return logs, loop.meter.end()


def test_means_weigh_every_sample_alike():
    means = Means()
    means.add({"loss": 1.0, "top1": torch.tensor(50.0)}, 3)
    means.add({"loss": 5.0, "top1": torch.tensor(100.0)}, 1)
    assert means.look() == {"loss": pytest.approx((3 * 1 + 5) / 4), "top1": pytest.approx((3 * 50 + 100) / 4)}
    assert Means().look() == {}


def test_logged_losses_are_means_over_samples_of_their_interval(monkeypatch):
    logs, _ = drive(monkeypatch)
    want = {2: (5 * 1 + 3 * 2) / 8, 4: (4 * 3 + 4 * 4) / 8, 5: 5.0}  # the last step is always logged
    assert {step: values["loss"] for step, values in logs.items()} == pytest.approx(want)


def test_epoch_means_are_means_over_samples(monkeypatch):
    _, epoch = drive(monkeypatch)
    assert epoch["loss"] == pytest.approx((5 * 1 + 3 * 2 + 4 * 3 + 4 * 4 + 2 * 5) / 18)
    assert epoch["seconds"] == pytest.approx(5.0)


def test_means_are_averaged_over_processes(monkeypatch):
    """The other one of two processes has 24 samples of loss 5 and accuracy 30, this one 8 of means 3 and 70."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda mine: mine.add_(24 * torch.tensor([5.0, 30.0, 1.0])))
    means = Means()
    means.add({"loss": 2.0, "top1": 60.0}, 4)
    means.add({"loss": 4.0, "top1": 80.0}, 4)
    assert means.look() == {"loss": pytest.approx((3 + 3 * 5) / 4), "top1": pytest.approx((70 + 3 * 30) / 4)}


def test_speed_counts_the_samples_of_all_processes(monkeypatch):
    logs, _ = drive(monkeypatch, world=2, seconds=0.5)
    assert logs[2]["per_second"] == pytest.approx(2 * 8 / 1.0)
    assert logs[2]["step_time"] == pytest.approx(0.5)
    assert logs[5]["per_second"] == pytest.approx(2 * 2 / 0.5)


def test_the_highest_rate_is_shown(monkeypatch):
    logs, _ = drive(monkeypatch, rates=(0.1, 0.3, 0.2))
    assert logs[2]["lr"] == 0.3


def test_small_rates_are_not_rounded_away():
    hook = ReportHook()
    hook.report = {"history": []}
    hook.after_log(None, 3, {"loss": 0.12345678, "lr": 1.25e-8})
    assert hook.report["history"] == [{"step": 3, "loss": 0.123457, "lr": 1.25e-8}]
