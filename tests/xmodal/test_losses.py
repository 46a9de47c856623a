"""UniCL and CLIP losses against loops, under autocast, and over processes."""

import math

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

from xmodal.losses import clip_loss, unicl_loss, unicl_target

SCALE = torch.tensor(2.0)


def features(n, d=6, seed=0):
    order = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn(n, d, generator=order), dim=-1) for _ in range(2)]


def by_loops(u, v, scale, label):
    """The paper's sums, written out."""
    n = len(u)
    classes = [int(y) if y else 1000 + i for i, y in enumerate(label)]
    sim = [[math.exp(scale) * float(u[i] @ v[j]) for j in range(n)] for i in range(n)]

    def side(rows):
        total = 0.0
        for i in range(n):
            mates = [k for k in range(n) if classes[k] == classes[i]]
            norm = math.log(sum(math.exp(s) for s in rows[i]))
            total -= sum(rows[i][k] - norm for k in mates) / len(mates)
        return total / n

    return side(sim), side([list(column) for column in zip(*sim, strict=True)])


@pytest.mark.parametrize("label", [[0, 2, 2, 1, 0, 1, 2], [0] * 7, [3] * 7, [1, 2, 3, 4, 5, 6, 7]])
def test_unicl_is_the_papers_sum(label):
    u, v = features(7)
    found = unicl_loss(u, v, SCALE, torch.tensor(label))
    i2t, t2i = by_loops(u, v, float(SCALE), label)
    assert float(found["i2t"]) == pytest.approx(i2t, abs=1e-5)
    assert float(found["t2i"]) == pytest.approx(t2i, abs=1e-5)
    assert float(found["loss"]) == pytest.approx((i2t + t2i) / 2, abs=1e-5)


def test_captions_alone_make_it_clips_loss():
    u, v = features(5)
    logits = SCALE.exp() * u @ v.t()
    wanted = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.t(), torch.arange(5))) / 2
    assert torch.allclose(clip_loss(u, v, SCALE)["loss"], wanted)
    assert torch.allclose(unicl_loss(u, v, SCALE, torch.zeros(5, dtype=torch.long))["loss"], wanted)
    assert torch.allclose(unicl_loss(u, v, SCALE)["loss"], wanted)


def test_labels_are_left_alone_and_checked():
    label = torch.tensor([0, 4, 0, 4])
    target = unicl_target(label)
    assert label.tolist() == [0, 4, 0, 4]
    assert target.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]]
    assert unicl_target(torch.tensor([0, 4])).tolist() == [
        [1, 0],
        [0, 1],
    ]  # a caption is of no class, not even the last
    with pytest.raises(ValueError, match="-1"):
        unicl_target(torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="go together"):
        unicl_loss(torch.zeros(3, 2), torch.zeros(2, 2), SCALE)


def test_float32_under_autocast():
    u, v = features(6)
    plain = unicl_loss(u, v, SCALE, torch.tensor([0, 1, 1, 0, 2, 2]))["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = unicl_loss(u.bfloat16(), v.bfloat16(), SCALE, torch.tensor([0, 1, 1, 0, 2, 2]))["loss"]
        same = unicl_loss(u, v, SCALE, torch.tensor([0, 1, 1, 0, 2, 2]))["loss"]
    assert found.dtype == torch.float32
    assert torch.equal(same, plain)


def worker(rank, port, sizes, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(sizes))
    u, v, label, weight = whole(sum(sizes))
    start = sum(sizes[:rank])
    mine = slice(start, start + sizes[rank])
    loss = unicl_loss(F.normalize(u[mine] @ weight, dim=-1), v[mine], SCALE, label[mine])["loss"]
    loss.backward()
    grad = weight.grad.clone()
    dist.all_reduce(grad)
    torch.save({"loss": loss.detach(), "grad": grad / len(sizes)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def whole(n):
    u, v = features(n, seed=3)
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0][:n])
    return u, v, label, torch.eye(6).requires_grad_()


def test_processes_agree_with_one_batch(free_port, tmp_path):
    """Captions of different processes stay apart, and the mean gradient is that of the whole batch; uneven sizes."""
    sizes = (5, 3)
    u, v, label, weight = whole(8)
    loss = unicl_loss(F.normalize(u @ weight, dim=-1), v, SCALE, label)["loss"]
    loss.backward()
    mp.spawn(worker, (free_port, sizes, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(found["loss"], loss.detach(), atol=1e-6)
        assert torch.allclose(found["grad"], weight.grad, atol=1e-6)


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_clips_loss_does_not_look_at_labels():
    u, v = features(4)
    label = torch.tensor([1, 1, 2, 2])
    assert torch.equal(clip_loss(u, v, SCALE, label)["loss"], clip_loss(u, v, SCALE)["loss"])
    assert not torch.allclose(unicl_loss(u, v, SCALE, label)["loss"], clip_loss(u, v, SCALE)["loss"])
