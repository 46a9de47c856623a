"""Each bend of mmengine: that stock mmengine still needs it (when that fails, drop the bend), and that ours works."""

import warnings

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.optim import AmpOptimWrapper, LinearLR
from mmengine.optim import OptimWrapper as StockOptimWrapper
from torch import nn

from tests.engine.toy import CONFIG, ToyModel, write_config
from xmodal.engine import launch
from xmodal.engine.checkpoint import CheckpointHook
from xmodal.engine.compat import Runner
from xmodal.engine.optim import OptimWrapper
from xmodal.engine.precision import autocast, check_amp
from xmodal.engine.schedule import CosineSchedule


def sgd(module, lr=0.1):
    return torch.optim.SGD(module.parameters(), lr=lr)


def test_stock_checkpoints_still_do_not_open(tmp_path):
    torch.save({"message_hub": HistoryBuffer([1.0], [1]), "x": np.float64(1)}, tmp_path / "stock.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        torch.load(tmp_path / "stock.pth", weights_only=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the bend is for machines without a GPU")
def test_stock_amp_still_refuses_the_cpu():
    with pytest.raises((AssertionError, RuntimeError)):
        AmpOptimWrapper(dtype="bfloat16", optimizer=sgd(nn.Linear(2, 2)))


def test_bf16_trains_on_the_cpu():
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    wrapper, before = OptimWrapper(sgd(layer), amp="bf16"), layer.weight.detach().clone()
    with wrapper.optim_context(layer):
        out = layer(torch.randn(4, 8))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().square().mean())
    assert layer.weight.dtype == torch.float32
    assert not torch.equal(layer.weight, before)
    assert not wrapper.scaler.is_enabled()


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        check_amp("fp16", "cpu")
    with pytest.raises(ValueError, match="choose bf16"):
        check_amp("int8", "cpu")
    with autocast(torch.device("cpu"), None):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the bend is for machines without a GPU")
def test_stock_init_dist_still_wants_a_driver(monkeypatch):
    from mmengine.dist import init_dist

    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((RuntimeError, AssertionError), match=r"NVIDIA|CUDA|cuda"):
        init_dist("pytorch", backend="gloo")


def test_stock_runner_still_passes_device_ids():
    import inspect

    from mmengine.runner import Runner as StockRunner

    assert "device_ids=[int(os.environ['LOCAL_RANK'])]" in inspect.getsource(StockRunner.wrap_model)


def test_launcher_without_torchrun_is_a_clear_error(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    cfg = launch.prepare(write_config(tmp_path), str(tmp_path / "w"), launcher="pytorch")
    with pytest.raises(ValueError, match="torchrun"):
        launch.train(cfg)


def test_stock_activation_checkpointing_still_loses_gradients():
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Sequential(nn.Linear(2, 2)))
    turn_on_activation_checkpointing(model, ["1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model(torch.ones(1, 2))
    assert not out.requires_grad


def test_activation_checkpointing_key_is_refused(tmp_path):
    cfg = launch.prepare(write_config(tmp_path), str(tmp_path / "w"))
    cfg.activation_checkpointing = ["head"]
    with pytest.raises(ValueError, match="recompute"):
        launch.train(cfg)


def test_stock_runner_still_reinitializes_children():
    from mmengine.model import BaseModel

    assert BaseModel.init_weights  # what Runner._init_model_weights calls
    model = ToyModel()
    before = model.encoder.fc.weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        super(ToyModel, model).init_weights()
    assert not torch.equal(before, model.encoder.fc.weight)


def test_our_runner_does_not():
    runner = object.__new__(Runner)
    runner.model = ToyModel()
    before = runner.model.encoder.fc.weight.clone()
    runner._init_model_weights()
    assert torch.equal(before, runner.model.encoder.fc.weight)


def test_stock_warm_up_still_cannot_start_from_zero():
    stock = LinearLR(sgd(nn.Linear(2, 2)), start_factor=0.0, end=5, by_epoch=False)
    with pytest.raises(ZeroDivisionError):
        stock.step()
    assert CosineSchedule(sgd(nn.Linear(2, 2)), 10, 5, warmup_epochs=1).optimizer.param_groups[0]["lr"] == 0


def test_stock_accumulation_still_counts_loader_iterations():
    layer = nn.Linear(2, 2)
    stock = StockOptimWrapper(sgd(layer), accumulative_counts=2)
    stock.initialize_count_status(layer, 0, 10)
    stock.update_params(layer(torch.ones(1, 2)).sum())
    assert stock.inner_count == 1
    with pytest.raises(ValueError, match="batch_split=2"):
        OptimWrapper(sgd(layer), accumulative_counts=2)


def test_stock_history_still_grows_and_ours_stays_empty(tmp_path):
    buffer = HistoryBuffer()
    for i in range(100):
        buffer.update(i)
    assert len(buffer.data[0]) == 100
    text = CONFIG.replace("param_scheduler", "optim_wrapper.update(clip_grad=dict(max_norm=1.0))\nparam_scheduler")
    runner = launch.train(launch.prepare(write_config(tmp_path, text), str(tmp_path / "w")))
    assert not [k for k, v in runner.message_hub.log_scalars.items() if len(v.data[0])]
    assert runner.optim_wrapper.grad_norm is not None


def test_runners_of_one_second_do_not_share_a_logger(tmp_path):
    cfg = Config.fromfile(write_config(tmp_path))
    short = ["train_cfg.max_epochs=1", "param_scheduler.warmup_epochs=0"]
    names = [launch.train(launch.prepare(cfg.filename, str(tmp_path / w), short)).experiment_name for w in "ab"]
    assert names[0] != names[1]


def test_default_hooks_are_ours(tmp_path):
    cfg = launch.prepare(write_config(tmp_path), str(tmp_path / "w"))
    runner = Runner.from_cfg(cfg)
    kinds = {type(h).__name__ for h in runner.hooks}
    assert kinds == {"ProgressHook", "ParamSchedulerHook", "CheckpointHook", "ReportHook"}
    assert isinstance(runner.hooks[-2], CheckpointHook)
