"""Convolutional towers and Swin give what the live model gives, with its statistics, and keep their norms still."""

import copy
from functools import partial
from types import SimpleNamespace

import open_clip
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

import xmodal
from tests.xmodal.adapters import towers
from tests.xmodal.adapters.towers import TOWERS, build
from tests.xmodal.test_text import stirred
from xmodal.encoders.convnet import ConvNet, convnet, load_body
from xmodal.encoders.efficientnet_lite import efficientnet_lite0
from xmodal.model import TransferModel

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


BODIES = {
    "resnet": lambda: timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=0, channels=(8, 8, 8, 16)
    ),
    "resnet18": lambda: timm.create_model("resnet18", num_classes=0),
    "bit": lambda: timm.models.resnetv2.ResNetV2(
        [1, 1], (32, 64), num_classes=0, stem_type="fixed", stem_chs=16, conv_layer=timm.layers.StdConv2d,
        norm_layer=partial(timm.layers.GroupNormAct, num_groups=4),
    ),
    "convnext": lambda: timm.models.convnext.ConvNeXt(num_classes=0, depths=(1, 1, 1, 1), dims=(8, 16, 16, 24)),
    "efficientnet": lambda: timm.create_model("efficientnet_lite0", num_classes=0),
    "squeezed": lambda: timm.create_model("efficientnet_b0", num_classes=0),
    "edge": lambda: timm.create_model("efficientnet_es", num_classes=0),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=32, window_size=4, embed_dim=16, depths=(2, 1),
        num_heads=(2, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_sites_change_no_output_and_no_key(name):
    torch.manual_seed(0)
    body = stirred(BODIES[name](), std=0.02)
    body = body.double()
    images, keys = torch.randn(2, 3, 32, 32, dtype=torch.double), list(body.state_dict())
    with torch.no_grad():
        want = body(images)
        tower = ConvNet(copy.deepcopy(body), 32).eval()
        assert want.std() > 1e-3
        torch.testing.assert_close(tower(images), want)
    assert list(tower.body.state_dict()) == keys
    assert want.shape == (2, tower.out_dim)


def test_sites_change_no_output_of_clips_resnet():
    torch.manual_seed(0)
    body = stirred(ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=4, image_size=32, width=8), std=0.02)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = body(images)
        torch.testing.assert_close(ConvNet(copy.deepcopy(body), 32).eval()(images), want, atol=1e-5, rtol=1e-4)


def test_statistics_are_those_of_the_weights(monkeypatch):
    small = SimpleNamespace(visual=ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=4, image_size=32, width=8))
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained: small)
    with torch.device("meta"):
        found = {
            name: (tower.pixel_mean, tower.pixel_std)
            for name in ("resnet50", "resnetv2_50x1_bit", "efficientnet_lite0", "convnext_tiny", "clip/RN50")
            for tower in [convnet(name)]
        }
    half = (0.5, 0.5, 0.5)
    assert found == {
        "resnet50": IMAGENET,
        "resnetv2_50x1_bit": (half, half),
        "efficientnet_lite0": IMAGENET,
        "convnext_tiny": IMAGENET,
        "clip/RN50": OPENAI,
    }
    assert (build(TOWERS["convnet"]["resnet"]).pixel_mean, build(TOWERS["convnet"]["resnet"]).pixel_std) == IMAGENET


def test_the_packaged_weights_want_pixels_between_minus_one_and_one():
    tower = efficientnet_lite0("random", image_size=64)
    assert (tower.pixel_mean, tower.pixel_std, tower.image_size) == ((0.5,) * 3, (0.5,) * 3, 64)
    assert not tower.training
    assert tower.imagenet[0].out_features == 1000
    norms = [m for m in tower.body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {1e-3}  # TensorFlow's
    with pytest.raises(ValueError, match="no weights at"):
        efficientnet_lite0("nowhere.pth")


def test_statistics_of_batch_norms_stay_unless_all_of_the_tower_trains():
    tower = build(TOWERS["convnet"]["resnet"])
    norms = [m for m in tower.body.modules() if isinstance(m, nn.BatchNorm2d)]
    tower.requires_grad_(False).train()
    assert not any(m.training for m in norms)
    next(tower.body.parameters()).requires_grad_(True)
    tower.train()
    assert not any(m.training for m in norms)
    tower.requires_grad_(True).train()
    assert all(m.training for m in norms)


@pytest.mark.parametrize("name", ["resnet", "convnext", "efficientnet", "clip-resnet"])
def test_maps_of_the_stages_are_the_last_four_and_end_in_the_last_map(name):
    tower, images = build(TOWERS["convnet"][name]), torch.randn(1, 3, 64, 64)
    maps = tower.feature_maps(images)
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]
    assert [m.shape[1] for m in maps] == tower.map_dims()
    if name in ("resnet", "clip-resnet", "convnext"):
        torch.testing.assert_close(maps[-1], tower.forward_blocks(images), atol=1e-5, rtol=1e-4)


def test_files_that_do_not_fit_are_refused_and_classifiers_left_aside(tmp_path):
    body, other = BODIES["resnet"](), BODIES["resnet"]()
    state = {**other.state_dict(), "fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    load_body(body, tmp_path / "w.pth")
    assert torch.equal(body.conv1.weight, other.conv1.weight)
    for change in ({"conv9.weight": torch.zeros(1)}, {"conv1.weight": None}):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match="conv"):
            load_body(body, tmp_path / "w.pth")


def test_only_all_blocks_or_none():
    tower, images = build(TOWERS["convnet"]["resnet"]), torch.randn(1, 3, 32, 32)
    assert tower.forward_blocks(images, stop=0) is images
    with pytest.raises(ValueError, match="all its blocks or none"):
        tower.forward_blocks(images, start=1)
    with pytest.raises(ValueError, match="no taps"):
        tower.forward_blocks(images, taps=object())


class Nothing(nn.Module):
    """A branch that was dropped."""

    def forward(self, x):
        return 0 * x


def test_what_is_placed_in_a_swin_block_stands_outside_stochastic_depth():
    block = build(TOWERS["swin"]["swin"]).blocks[1]
    block.drop_path1, block.drop_path2 = Nothing(), Nothing()
    block.attn.edits["own"], block.mlp.edits["own"] = Plus(1.0), Plus(10.0)
    x = torch.randn(2, 8, 8, 16)
    torch.testing.assert_close(block(x), x + 11)


class Plus(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, y, x, grid=None):
        return y + self.value


def test_the_statistics_of_a_trained_tower_are_saved_and_those_of_a_frozen_one_are_not():
    head = dict(type="classification", num_classes=2)
    for frozen in (False, True):
        model = TransferModel(dict(type="convnet", name="resnet18"), head, freeze_encoder=frozen)
        assert ("encoder.body.bn1.running_mean" in model.saved_keys()) != frozen


def test_recompute_runs_blocks_again_and_gives_the_same_gradients():
    torch.manual_seed(0)
    images, grads, runs = torch.randn(2, 3, 64, 64), [], []
    for recompute in (False, True, 3):
        torch.manual_seed(1)
        model = TransferModel(
            dict(type="convnet", name="resnet18"), dict(type="classification", num_classes=3),
            adapters=[dict(type="conv_adapter")], recompute=recompute,
        ).train()  # fmt: skip
        stirred(model)
        counts = [0] * len(model.encoder.blocks)
        for i, block in enumerate(model.encoder.blocks):
            block.register_forward_pre_hook(lambda *_, i=i, counts=counts: counts.__setitem__(i, counts[i] + 1))
        model(mode="loss", image=images, label=torch.tensor([0, 1]))["loss"].backward()
        grads.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
        runs.append(counts)
    assert runs == [[1] * 8, [2] * 8, [2] * 3 + [1] * 5]
    for other in grads[1:]:
        for key, value in grads[0].items():
            torch.testing.assert_close(other[key], value, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_swin_v2_equals_timm():
    torch.manual_seed(0)
    tower = towers.swin_v2()
    towers.refill(tower, 0.3)
    theirs = timm.create_model(
        "swinv2_tiny_window8_256", num_classes=0, img_size=32, patch_size=4, window_size=4, embed_dim=16,
        depths=(2, 1), num_heads=(2, 4),
    ).eval()  # fmt: skip
    theirs.load_state_dict(tower.library_state())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower.eval()(images), theirs(images), atol=1e-5, rtol=1e-5)
    adapted = xmodal.adapt(tower, "lora").eval()  # a site on the projection of queries, keys and values acts
    plain = adapted.encoder(images)
    towers.refill(adapted.encoder, 0.3, only=lambda p: p.requires_grad)
    assert not torch.allclose(adapted.encoder(images), plain, atol=1e-3)


def test_a_model_that_is_mostly_without_sites_is_refused():
    with pytest.raises(ValueError, match=r"only \d+% of the weights of EfficientNet have sites"):
        convnet("efficientnet_cc_b0_4e")


def test_channels_last_holds_weights_so_and_changes_no_feature():
    head, images = dict(type="classification", num_classes=3), torch.randn(2, 3, 32, 32)
    features = []
    for last in (False, True):
        torch.manual_seed(0)
        model = TransferModel(convnet("resnet18"), head, channels_last=last).eval()
        kernels = [w for w in model.encoder.parameters() if w.ndim == 4 and w.shape[2] > 1]
        assert all(w.is_contiguous(memory_format=torch.channels_last) == last for w in kernels if w.shape[1] > 1)
        features.append(model.features(image=images))
    torch.testing.assert_close(*features, atol=1e-5, rtol=1e-4)
