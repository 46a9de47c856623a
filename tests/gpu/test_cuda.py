"""Parity, half precision, compile and memory on a CUDA device. Run by `make test-gpu`."""

import pytest
import torch

from tests.parity.core import Case
from tests.parity.video_models import clip_tower
from tests.xmodal.test_model import refill, st_model

pytestmark = pytest.mark.gpu


@pytest.fixture
def clips():
    return torch.randn(2, 1, 3, 3, 16, 16)


def test_cuda_equals_cpu(clips):
    model = refill(st_model()).eval()
    want = model(clips=clips)
    torch.testing.assert_close(model.cuda()(clips=clips.cuda()).cpu(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["st_adapter_dev", "evl_dev"])
def test_parity_weights_on_cuda(name):
    case = Case.load(f"tests/parity/cases/{name}.json")
    arch = case.arch.get("vit") or case.arch
    size, patch = arch.get("image_size") or arch["input_resolution"], arch["patch_size"]
    visual = {k.removeprefix("visual."): v for k, v in case.state().items()}
    visual = {k: v for k, v in visual.items() if "adapter_" not in k and not k.startswith(("fc.", "decoder.", "proj."))}
    tower = clip_tower(visual, arch["heads"], size, patch, 1e-5).eval()
    images = case.input("video").transpose(1, 2).flatten(0, 1)
    want = tower.forward_blocks(*tower.embed(images))
    got = tower.cuda().forward_blocks(*tower.embed(images.cuda())).cpu()
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains(dtype, clips):
    model = refill(st_model()).cuda().train()
    label = torch.tensor([0, 1], device="cuda")
    with torch.autocast("cuda", dtype):
        loss = model(mode="loss", clips=clips.cuda(), label=label)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_compiled_blocks_agree(clips):
    model = refill(st_model()).eval().cuda()
    want = model(clips=clips.cuda())
    for block in model.encoder.blocks:
        block.compile(fullgraph=True)
    torch.testing.assert_close(model(clips=clips.cuda()), want, atol=1e-3, rtol=1e-3)


def test_recompute_saves_memory():
    peaks = []
    for recompute in (False, True):
        torch.cuda.reset_peak_memory_stats()
        model = st_model(recompute=recompute).cuda().train()
        clips, label = torch.randn(16, 1, 3, 3, 64, 64, device="cuda"), torch.zeros(16, dtype=torch.long, device="cuda")
        model(mode="loss", clips=clips, label=label)["loss"].backward()
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0]
