"""Kernels, waits, optimizers and processes on a real card. Run by `make test-gpu`."""

import subprocess
import sys
import warnings

import pytest
import torch

from pointcloud import ops
from tests.device.limits import LIMITS, family_of
from tests.device.runs import batch_for, built
from tests.test_configs import CONFIGS, ROOT, name
from tests.xmodal.test_model import refill, st_model
from xmodal.engine.optim import TrainedGroups

pytestmark = pytest.mark.gpu
STEMS = (
    "st-adapter_tiny-clip_8u_actions8",
    "evl_tiny-clip_8u_actions8",
    "lora_tiny-clip_48_digits",
    "epcl_tiny-clip_512_objects",
    "epcl_tiny-clip_2k_rooms-det",
    "epcl-sparse_tiny-clip_2k_rooms-det",
)


def equal(search, *args, **options):
    for one, other in zip(
        *(
            x if isinstance(x, tuple) else (x,)
            for x in (search(*args, backend=b, **options) for b in ("torch", "triton"))
        ),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("grid", [False, True], ids=["random", "ties"])
def test_kernels_give_the_indices_of_the_plain_searches(grid):
    assert not ops.available_backends()["triton"]
    shape = (3, 5000, 3)
    points = torch.randint(0, 9, shape).float() if grid else torch.rand(shape)
    points, lengths = points.cuda(), [5000, 700, 3]
    query = points[:, :300].contiguous()
    assert ops.choose_backend("auto", points) == "triton"
    equal(ops.farthest_point_sample, points, 512, lengths)
    equal(ops.farthest_point_sample, points, 512, None, skip_near_origin=True)
    for k in (1, 16, 64):
        equal(ops.knn, query, points, k, None, lengths)
        equal(ops.ball_query, query, points, 1.5 if grid else 0.1, k, None, lengths)


@pytest.mark.parametrize("path", [pytest.param(p, id=name(p)) for p in CONFIGS if p.stem in STEMS])
@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
def test_steps_wait_as_seldom_as_on_the_pretended_device(path, amp):
    cfg, model, _ = built(path, where="cpu")
    model = model.cuda().train()
    wrapper = {k: v for k, v in cfg.optim_wrapper.items() if k not in ("type", "amp")}
    optimizer = TrainedGroups({**wrapper, "amp": amp}, wrapper.pop("paramwise_cfg", None))(model, say=False)
    batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch_for(cfg, model).items()}
    optimizer.begin(1.0, last=True)
    model.train_step(dict(batch), optim_wrapper=optimizer)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model.train_step(dict(batch), optim_wrapper=optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in seen if "synchronizing" in str(w.message)]
    scaler = 2 if amp == "fp16" else 0  # the loss scale reads whether it overflowed
    assert len(waits) <= LIMITS[family_of(path)] + scaler, [f"{w.filename}:{w.lineno}" for w in waits]


def test_the_optimizer_is_fused_and_steps_as_the_plain_one():
    weights = []
    for options in ({}, {"fused": False}):
        torch.manual_seed(0)
        model = refill(st_model()).cuda().train()
        adam = dict(type=torch.optim.AdamW, lr=1e-2, weight_decay=0.1, **options)
        wrapper = TrainedGroups(dict(optimizer=adam, clip_grad=dict(max_norm=1.0)))(model, say=False)
        assert wrapper.optimizer.param_groups[0]["fused"] is (None if options else True) or options
        clips = torch.randn(2, 1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).cuda()
        for _ in range(3):
            wrapper.begin(1.0, last=True)
            wrapper.update_params(model(mode="loss", clips=clips, label=torch.tensor([0, 1]).cuda())["loss"])
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two cards")
def test_two_cards_average_their_gradients():
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29531"]
    done = subprocess.run([*line, "-m", "tests.gpu.nccl"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("equal") == 2


def test_the_benchmark_runs(tmp_path):
    from tools.benches import gpu

    kept = gpu.main(["--quick", "--json", str(tmp_path / "gpu.json"), "--minutes", "4"])["cases"]
    failed = {k: row["error"] for k, row in kept.items() if "error" in row}
    assert not {k for k in failed if "torchcodec" not in k and "attention" not in k}, failed
    assert all(row["equal indices"] for k, row in kept.items() if k.startswith("points"))
