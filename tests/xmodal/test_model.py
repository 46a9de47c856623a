"""The transfer model: sites, taps, freezing, pruning, saving."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from xmodal.encoders.frozen import fingerprint
from xmodal.encoders.sites import place, placed, remove, site_names
from xmodal.encoders.taps import Taps
from xmodal.encoders.vit import VisionTransformer
from xmodal.model import TransferModel
from xmodal.preprocessor import Preprocessor


def tower(**kwargs):
    given = dict(image_size=16, patch_size=8, dim=12, depth=3, num_heads=3) | kwargs
    return VisionTransformer(**given)


def st_model(**kwargs):
    torch.manual_seed(0)
    given = dict(
        encoder=tower(),
        adapters=[dict(type="st_adapter", bottleneck=4, sites=["pre_attn", "pre_mlp"])],
        reader=dict(type="time_mean"),
        head=dict(type="classification", num_classes=5, dropout=0.5),
    )
    return TransferModel(**(given | kwargs))


def refill(model):
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.3)
    return model


class Add(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, y, *others):
        return y * 2 + self.value


def test_sites_run_in_order_and_are_undone():
    encoder = tower().eval()
    block, x = encoder.blocks[0], torch.randn(2, 5, 12)
    keys, before = set(encoder.state_dict()), block(x)
    place(block, "mlp.fc1", "a", Add(1.0))
    place(block, "mlp.fc1", "b", Add(5.0))
    assert list(block.mlp.fc1.edits) == ["a", "b"]
    plain = nn.functional.linear(x, block.mlp.fc1.weight, block.mlp.fc1.bias)
    torch.testing.assert_close(block.mlp.fc1(x), (plain * 2 + 1) * 2 + 5)
    assert keys < set(encoder.state_dict())
    with pytest.raises(ValueError, match="already holds"):
        place(block, "mlp.fc1", "a", Add(1.0))
    remove(block, "mlp.fc1", "a")
    remove(block, "mlp.fc1", "b")
    assert torch.equal(block(x), before)
    assert set(encoder.state_dict()) == keys
    with pytest.raises(ValueError, match="it has"):
        place(block, "mlp.fc3", "a", Add(1.0))


def test_every_documented_site_exists():
    names = site_names(tower(init_values=1e-5).blocks[0])
    expected = "pre_attn norm1 attn.qkv attn.proj attn ls1 attn_branch pre_mlp norm2 mlp.fc1 mlp.act mlp.fc2 mlp ls2"
    assert sorted(names) == sorted([*expected.split(), "mlp_branch", "post"])
    assert {"patch_embed", "embedded", "pre_blocks", "norm", "norm_pre"} <= set(site_names(tower()))


def test_taps_keep_only_what_was_asked():
    encoder = tower()
    tokens, grid = encoder.embed(torch.randn(2, 3, 16, 16))
    taps = Taps("attn.q", "post", layers=[1])
    encoder.forward_blocks(tokens, grid, taps=taps)
    assert taps["attn.q", 1].shape == (2, 3, 5, 4)
    assert taps["post", 1].shape == (2, 5, 12)
    assert taps.slot(0) is None
    assert list(taps.slot(1).values) == ["attn.q", "post"]
    with pytest.raises(ValueError, match=r"attn\.x"):
        Taps("attn.x", layers=[0])


@pytest.mark.parametrize("kernel_size", [(3, 1, 1), (3, 3, 3)])
def test_last_block_pruning_changes_nothing(kernel_size):
    model = refill(st_model(adapters=[dict(type="st_adapter", bottleneck=4, kernel_size=kernel_size)])).eval()
    clips = torch.randn(2, 1, 3, 3, 16, 16)
    tokens, grid = model.embed(clips=clips)
    full = model.encoder.forward_blocks(tokens, grid, read="all")
    short = model.encoder.forward_blocks(tokens, grid, read="prefix")
    assert short.shape == (6, 1, 12)
    torch.testing.assert_close(full[:, :1], short, atol=1e-6, rtol=1e-5)


def test_dead_adapter_is_kept_and_saved_but_not_trained():
    model = st_model()
    dead = [p for n, p in model.named_parameters() if "blocks.2.pre_mlp" in n]
    assert dead
    assert not any(p.requires_grad for p in dead)
    assert any("blocks.2.pre_mlp" in k for k in model.saved_keys())
    loss = model(mode="loss", clips=torch.randn(2, 1, 3, 3, 16, 16), label=torch.tensor([0, 1]))["loss"]
    loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_gradients_only_in_trained_parts_and_eval_mode_of_the_frozen():
    model = refill(st_model()).train()
    assert not model.encoder.blocks[0].attn.training
    assert model.head.dropout.training
    assert all(m.training for _, m in placed(model.encoder.blocks[0]))
    model(mode="loss", clips=torch.randn(2, 1, 3, 3, 16, 16), label=torch.tensor([0, 1]))["loss"].backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


def test_saved_keys_are_the_added_and_the_trained():
    model = st_model()
    assert all("st_adapter" in k or k.startswith("head.") for k in model.saved_keys())
    full = st_model(freeze_encoder=False)
    assert "encoder.blocks.0.attn.qkv.weight" in full.saved_keys()


def test_fingerprint_sees_every_weight():
    a = tower()
    b = copy.deepcopy(a)
    assert fingerprint(a) == fingerprint(b)
    b.blocks[1].mlp.fc1.weight.data[0, 0] += 1e-6
    assert fingerprint(a) != fingerprint(b)


def test_views_are_averaged_and_empty_batches_pass():
    model = refill(st_model()).eval()
    clips = torch.randn(2, 3, 2, 3, 16, 16)
    out = model(mode="predict", clips=clips, label=torch.tensor([1, 2]), sample_id=["a", "b"])
    one = torch.stack([model(mode="predict", clips=clips[:, v : v + 1])[1]["scores"] for v in range(3)]).mean(0)
    assert [o["sample_id"] for o in out] == ["a", "b"]
    torch.testing.assert_close(out[1]["scores"], one)
    assert model(mode="predict", clips=clips[:0], sample_id=[], skipped=["x"]) == []


def test_recompute_gives_the_same_gradients():
    grads = []
    for recompute in (False, True, 2):
        model = refill(st_model(recompute=recompute, head=dict(type="classification", num_classes=5))).train()
        torch.manual_seed(1)
        model(mode="loss", clips=torch.randn(2, 1, 3, 3, 16, 16), label=torch.tensor([0, 1]))["loss"].backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, every, some in zip(*grads, strict=True):  # none, all, the first two
        torch.testing.assert_close(every, plain)
        torch.testing.assert_close(some, plain)


def test_probe_reads_what_the_encoder_gives():
    model = TransferModel(encoder=tower(out_dim=7), head=dict(type="classification", num_classes=3))
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.features(image=images), model.encoder(images))
    assert model.head.fc.in_features == 7


def test_misspelt_arguments_are_named():
    with pytest.raises(ValueError, match="did you mean 'bottleneck'"):
        st_model(adapters=[dict(type="st_adapter", botleneck=4)])
    with pytest.raises(ValueError, match="did you mean 'st_adapter'"):
        st_model(adapters=[dict(type="st_adaptor")])
    with pytest.raises(ValueError, match="num_classes"):
        st_model()(mode="loss", clips=torch.randn(1, 1, 3, 3, 16, 16), label=torch.tensor([9]))


def test_preprocessor_normalizes_and_mixes():
    pre = Preprocessor((0.5, 0.25, 0.5), (0.5, 0.25, 0.1), mixup=0.8, num_classes=4)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    plain = (pixels / 255 - torch.tensor([0.5, 0.25, 0.5]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(pre({"image": pixels})["image"], plain, atol=1e-5, rtol=1e-5)
    clips = pixels[:, None, None].expand(2, 1, 3, 3, 8, 8)
    mixed = pre({"clips": clips, "label": torch.tensor([0, 1])}, training=True)
    assert mixed["clips"].shape == clips.shape
    torch.testing.assert_close(mixed["label"].sum(1), torch.ones(2))
    with pytest.raises(ValueError, match="num_classes"):
        Preprocessor((0.5,) * 3, (0.5,) * 3, mixup=0.8)


def test_every_view_has_the_label_of_its_clip():
    """Two clips of three views are six samples: the labels are a a a b b b."""
    model = st_model(head=dict(type="classification", num_classes=5)).eval()
    clips, label = torch.randn(2, 3, 2, 3, 16, 16), torch.tensor([1, 4])
    logits = model(mode="tensor", clips=clips).double()
    want = -logits.log_softmax(1)[torch.arange(6), torch.tensor([1, 1, 1, 4, 4, 4])].mean()
    assert model(mode="loss", clips=clips, label=label)["loss"].item() == pytest.approx(want.item(), abs=1e-5)


def test_the_last_blocks_adapter_before_its_attention_trains():
    """The class token of the last block attends to the patches that it edits."""
    model = refill(st_model()).train()
    model(mode="loss", clips=torch.randn(2, 1, 3, 3, 16, 16), label=torch.tensor([0, 1]))["loss"].backward()
    for block in range(3):
        own = [p for n, p in model.named_parameters() if f"blocks.{block}.pre_attn" in n]
        assert own
        assert all(p.requires_grad for p in own)
        assert any(p.grad.abs().max() > 0 for p in own)


def pixels_of(*shape):
    """Gray images, each of one value, so that a mixture tells its weight."""
    return torch.arange(1, shape[0] + 1, dtype=torch.float32).view(-1, *[1] * (len(shape) - 1)).expand(shape) * 10


def test_mixup_weighs_labels_as_it_weighs_pixels():
    """lam x + (1 - lam) x', labels likewise; with smoothing s a class has 1 - s + s / K, the others s / K."""
    np.random.seed(0)
    pre = Preprocessor((0.0,) * 3, (1 / 255,) * 3, mixup=1.0, num_classes=4, label_smoothing=0.2)
    clips, label = pixels_of(4, 2, 3, 3, 6, 6), torch.tensor([0, 1, 2, 3])
    found = pre({"clips": clips, "label": label}, training=True)
    mixed = found["clips"].double()
    assert torch.allclose(mixed, mixed[:, :1, :1, :1, :1, :1].expand_as(mixed)), "all views, frames and pixels alike"
    lam = (mixed[0, 0, 0, 0, 0, 0] - 40) / (10 - 40)
    assert 0 < lam < 1
    want = lam * pixels_of(4) + (1 - lam) * pixels_of(4).flip(0)
    assert torch.allclose(mixed[:, 0, 0, 0, 0, 0], want.double(), atol=1e-4)
    smooth = torch.full((4, 4), 0.05, dtype=torch.float64) + 0.8 * torch.eye(4, dtype=torch.float64)
    assert torch.allclose(found["label"].double(), lam * smooth + (1 - lam) * smooth.flip(0), atol=1e-5)


def test_cutmix_pastes_a_box_and_weighs_labels_by_its_area():
    np.random.seed(3)
    pre = Preprocessor((0.0,) * 3, (1 / 255,) * 3, cutmix=1.0, num_classes=2)
    images = pixels_of(2, 3, 16, 16)
    found = pre({"image": images, "label": torch.tensor([0, 1])}, training=True)
    inside = (found["image"] - images).abs() > 1
    assert 0 < inside.float().mean() < 1
    assert torch.allclose(found["image"], torch.where(inside, images.flip(0), images), atol=1e-4)
    share = 1 - inside.float().mean().item()
    assert found["label"][0].tolist() == pytest.approx([share, 1 - share], abs=1e-5)


def test_mixing_is_for_training_alone_and_odd_batches_pass():
    pre = Preprocessor((0.0,) * 3, (1 / 255,) * 3, mixup=1.0, num_classes=4)
    batch = {"image": pixels_of(4, 3, 6, 6), "label": torch.tensor([0, 1, 2, 3])}
    plain = pre(batch)
    assert torch.allclose(plain["image"], batch["image"], atol=1e-4)
    assert plain["label"].tolist() == [0, 1, 2, 3]
    odd = pre({k: v[:3] for k, v in batch.items()}, training=True)
    assert torch.allclose(odd["image"], batch["image"][:3], atol=1e-4)
    assert torch.equal(odd["label"], torch.eye(4)[:3])


def test_a_model_trains_on_mixed_batches():
    """`model.mixing` as an option of a config: soft labels reach the loss, and prediction sees no mixing."""
    model = st_model(mixing=dict(mixup=0.8, cutmix=1.0, num_classes=5)).train()
    raw = {"clips": torch.randint(0, 256, (4, 1, 3, 3, 16, 16), dtype=torch.uint8), "label": torch.tensor([0, 1, 2, 3])}
    batch = model.data_preprocessor(raw, True)
    assert batch["label"].shape == (4, 5)
    assert torch.isfinite(model(mode="loss", **batch)["loss"])
    assert model.data_preprocessor(raw)["label"].tolist() == [0, 1, 2, 3]


def test_predictions_without_labels_or_names():
    scores = torch.eye(3)[:2]
    found = TransferModel.to_predictions(scores, None, None)
    assert [(p["sample_id"], p["label"]) for p in found] == [("0", None), ("1", None)]
    found = TransferModel.to_predictions(scores, torch.tensor([2, 1]), ["x", "y"])
    assert [(p["sample_id"], p["label"], p["scores"].tolist()) for p in found] == [
        ("x", 2, [1, 0, 0]), ("y", 1, [0, 1, 0]),
    ]  # fmt: skip
