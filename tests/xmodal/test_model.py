"""The transfer model: sites, taps, freezing, pruning, saving."""

import copy

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
    expected = "pre_attn norm1 attn.qkv attn.proj attn ls1 pre_mlp norm2 mlp.fc1 mlp.act mlp.fc2 mlp ls2 post"
    assert sorted(names) == sorted(expected.split())
    assert {"patch_embed", "pre_blocks", "norm", "norm_pre"} <= set(site_names(tower()))


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


def test_preprocessor_normalises_and_mixes():
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
