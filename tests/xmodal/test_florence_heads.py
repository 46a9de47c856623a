"""Dynamic Head and co-attention: identity at the start, shapes, gradients, masks, mistakes."""

import pytest
import torch
import torch.nn.functional as F

from tools import train
from xmodal.engine.config import load_config
from xmodal.fusion import FusionModel
from xmodal.heads.co_attention import CoAttentionHead, CoAttentionLayer
from xmodal.heads.dynamic_head import DynamicBlock, DynamicHead, DynamicReLU
from xmodal.registry import MODELS, build


def pyramid(dims=(16, 16, 16), size=17):
    torch.manual_seed(0)
    sizes = [size, (size + 1) // 2, ((size + 1) // 2 + 1) // 2]
    return [torch.randn(2, d, n, n) for d, n in zip(dims, sizes, strict=True)]


def test_dynamic_head_starts_as_identity_and_trains():
    head, levels = DynamicHead([16, 16, 16], dim=16, depth=2), pyramid()
    assert all(torch.equal(a, b) for a, b in zip(head(levels), levels, strict=True))
    for block in head.blocks:
        block.gate.data.fill_(0.5)
    out = head(levels)
    assert [o.shape for o in out] == [x.shape for x in levels]
    sum(o.square().sum() for o in out).backward()
    still = [n for n, p in head.named_parameters() if p.grad is None]
    assert not still
    look = head.blocks[0].look.weight.grad
    assert look.abs().sum() > 0


def test_dynamic_head_lets_neighboring_levels_see_each_other():
    head, levels = DynamicHead([8, 16, 32], dim=16, depth=1), pyramid((8, 16, 32))
    head.blocks[0].gate.data.fill_(1.0)
    moved = [levels[0] + 1, *levels[1:]]
    before, after = head(levels), head(moved)
    assert not torch.allclose(before[1], after[1], atol=1e-5)
    assert torch.allclose(before[2], after[2])  # two levels away
    with pytest.raises(ValueError, match="halves"):
        head([levels[0], levels[2], levels[2]])
    with pytest.raises(ValueError, match="built for 3"):
        head(levels[:2])


def test_dynamic_relu_starts_as_relu():
    x = torch.randn(2, 8, 3, 3)
    assert torch.allclose(DynamicReLU(8)(x), x.relu(), atol=1e-6)


def test_co_attention_starts_as_identity():
    layer = CoAttentionLayer(16, 2)
    x, seen = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    assert torch.equal(layer(x, seen), x)
    head = CoAttentionHead(16, 16, vocab_size=30, dim=16, depth=2, num_heads=2)
    image, text = head(x, seen)
    assert torch.equal(image, x)
    assert torch.equal(text, seen)


def refilled():
    torch.manual_seed(1)
    head = CoAttentionHead(12, 10, vocab_size=30, dim=16, depth=2, num_heads=2)
    for p in head.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.3)
    return head


def test_co_attention_ignores_padding():
    head, image, text = refilled(), torch.randn(2, 5, 12), torch.randn(2, 6, 10)
    keep = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    one = head(image, text, keep)
    changed = text.clone()
    changed[0, 3:] = 9
    two = head(image, changed, keep)
    assert torch.allclose(one[0], two[0], atol=1e-5)
    assert torch.allclose(one[1][0, :3], two[1][0, :3], atol=1e-5)


def test_co_attention_losses_learn():
    head, image, text = refilled(), torch.randn(4, 5, 12), torch.randn(4, 6, 10)
    target = torch.full((4, 6), -100)
    target[:, 2] = torch.tensor([3, 4, 5, 6])
    masked = text.clone()
    masked[:, 2] = 0
    optimizer, sums = torch.optim.Adam(head.parameters(), 0.01), []
    for _ in range(25):
        losses = head.loss(image, text, masked, target)
        sums.append(sum(losses.values()))
        optimizer.zero_grad()
        sums[-1].backward()
        optimizer.step()
    assert sums[-1] < 0.5 * sums[0]
    with pytest.raises(ValueError, match="at least 2"):
        head.loss(image[:1], text[:1], masked[:1], target[:1])


def test_matching_and_word_losses_by_hand():
    """The wrong text of a sample is its neighbor's, with that one's padding; words count at masked places alone."""
    head, image, text = refilled(), torch.randn(3, 5, 12), torch.randn(3, 6, 10)
    keep = torch.ones(3, 6, dtype=torch.bool)
    keep[0, 2:] = False
    keep[2, 4:] = False
    masked = text.clone()
    masked[:, 1] = 0
    target = torch.full((3, 6), -100)
    target[:, 1] = torch.tensor([3, 4, 5])
    losses = head.loss(image, text, masked, target, keep)
    answers = []
    for i in range(3):
        for other, label in ((i, 1), ((i - 1) % 3, 0)):
            a, b = head(image[i : i + 1], text[other : other + 1, : keep[other].sum()])
            answers.append(head.match(torch.cat([a[0, 0], b[0, 0]])).log_softmax(-1)[label])
    assert losses["loss_match"].item() == pytest.approx(-torch.stack(answers).mean().item(), abs=1e-5)
    words = []
    for i in range(3):
        stream = head(image[i : i + 1], masked[i : i + 1, : keep[i].sum()])[1]
        words.append(head.words(stream[0, 1]).log_softmax(-1)[target[i, 1]])
    assert losses["loss_words"].item() == pytest.approx(-torch.stack(words).mean().item(), abs=1e-5)


def test_dynamic_relu_by_the_formula():
    """max((1 + 2 a1) x + b1, 2 a2 x + b2), the four a channel within half a unit of 0 and made from the mean."""
    relu, x = DynamicReLU(8).double(), torch.randn(2, 8, 3, 4).double()
    torch.nn.init.normal_(relu.fc2.weight, std=2.0)
    hidden = (x.mean((2, 3)) @ relu.fc1.weight.t() + relu.fc1.bias).clamp(min=0)
    y = ((hidden @ relu.fc2.weight.t()) / 6 + 0.5).clamp(0, 1) - 0.5
    assert y.abs().max() > 0.2
    a1, b1, a2, b2 = (y[:, 8 * i : 8 * i + 8, None, None] for i in range(4))
    assert torch.allclose(relu(x), torch.maximum((1 + 2 * a1) * x + b1, 2 * a2 * x + b2))


def test_a_dynamic_block_by_the_formula():
    """At its start nothing is moved and everything seen through a half: plain convolutions, weighed and averaged."""
    block, levels = DynamicBlock(16), pyramid(size=9)
    torch.nn.init.normal_(block.scale.weight)
    gates = lambda s: (  # noqa: E731
        ((s.mean((2, 3)) @ block.scale.weight[0, :, 0, 0] + block.scale.bias).clamp(min=0) + 3) / 6
    ).clamp(0, 1)[:, None, None, None]
    conv = lambda part, x, stride=1: part.norm(0.5 * F.conv2d(x, part.weight, stride=stride, padding=1))  # noqa: E731
    up = F.interpolate(conv(block.coarser, levels[2]), size=levels[1].shape[-2:], mode="bilinear")
    seen = [conv(block.same, levels[1]), conv(block.finer, levels[0], 2), up]
    want = (sum(gates(s) * s for s in seen) / 3).clamp(min=0)
    block.gate.data.fill_(0.25)
    out = block(levels)[1]
    assert torch.allclose(out, levels[1] + 0.25 * (want - levels[1]), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("pretrain/co-attention_tiny-clip_48_shapes", ["train_dataloader.dataset.count=8"]),
        (
            "image/dynamic-head_efficientnet-lite0_64_segments",
            ["train_dataloader.dataset.count=8", "model.encoder.checkpoint=random", "val_dataloader.dataset.count=2"],
        ),
    ],
)
def test_configs_of_the_heads_train_a_step(config, options, tmp_path):
    """One step by the runner changes the head, and only what trains is saved."""
    step = ["train_cfg.max_epochs=none", "train_cfg.max_steps=2", "train_cfg.val_interval=2"]
    quick = ["param_scheduler.warmup_epochs=0", "train_dataloader.batch_size=4", *step]
    words = [f"configs/{config}.py", "--work-dir", str(tmp_path), "--cfg-options", *options, *quick]
    assert train.main(words) == 0
    saved = torch.load(tmp_path / "last.pth", weights_only=True)["state_dict"]
    assert all(key.startswith("head.") for key in saved)
    start = build(load_config(words[0], [*options, *quick]).model, MODELS).state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in saved.items() if value.is_floating_point())


def test_fusion_hides_words_and_judges_pairs():
    model = FusionModel(dict(type="tiny_clip"), dict(type="co_attention", dim=32, depth=1, num_heads=2)).train()
    assert not model.clip.training
    ids = model.clip.tokenize(["a photo of a red circle", "a red star"])
    keep = torch.arange(ids.shape[1]) <= model.clip.text.end(ids)[:, None]
    gaps, target = model.hide(ids, keep)
    hidden = target != -100
    assert hidden.any(1).all()
    assert torch.equal(torch.where(hidden, target, gaps), ids)
    assert (gaps[hidden] == 0).all()
    ends = model.clip.text.end(ids)
    assert not hidden[:, 0].any()
    assert not hidden[torch.arange(2), ends].any()
    model.hidden_share = 1.0
    every = model.hide(ids, keep)[1] != -100
    assert every.sum(1).tolist() == (ends - 1).tolist()  # all between the start and the end
    assert not every[torch.arange(2), ends].any()
    image = torch.zeros(2, 3, 48, 48)
    assert model(image=image, caption=["a red circle", "a red star"]).shape == (2, 2)
    with pytest.raises(ValueError, match="choose tensor or loss"):
        model(mode="predict", image=image)
