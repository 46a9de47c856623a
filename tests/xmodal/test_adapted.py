"""Adapters on somebody's own model: same outputs before, switching, mixing in a batch, saving."""

import copy
import json
import subprocess
import sys

import open_clip
import pytest
import timm
import torch

import xmodal
from tests.xmodal.adapters.towers import refill
from xmodal.adapted import Adapted


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def filled(adapted, std=0.3):
    refill(adapted.encoder, std, only=lambda p: p.requires_grad)
    return adapted.eval()


def test_three_lines(model, images):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapted = xmodal.adapt(model, "lora", rank=8)
    torch.testing.assert_close(adapted.eval()(images), model(images))
    adapted.train()(images).sum().backward()
    assert {k for k, p in adapted.named_parameters() if p.grad is not None} == set(adapted.trained())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_neither_mmengine_nor_open_clip_is_imported():
    code = (
        "import sys, timm, xmodal\n"
        "xmodal.adapt(timm.create_model('vit_tiny_patch16_224', depth=1), 'lora', rank=8)\n"
        "assert not {'mmengine', 'open_clip', 'cv2', 'decord'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "method"), [("resnet18", "conv_adapter"), ("efficientnet_lite0", "bitfit")])
def test_timm_convnets(name, method, images):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    adapted = xmodal.adapt(model, "bitfit").eval()
    torch.testing.assert_close(adapted(images), model(images))
    assert xmodal.adapt(model, method, num_classes=3).eval()(images).shape == (4, 3)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_open_clip_models(tower, images):
    torch.manual_seed(0)
    vision = dict(image_size=32, layers=2, width=64, patch_size=8) if tower == "vit" else None
    vision = vision or dict(image_size=32, layers=[1, 1, 1, 1], width=32, patch_size=None)
    text = dict(context_length=8, vocab_size=64, width=64, heads=2, layers=1)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
    adapted = xmodal.adapt(model, "lora" if tower == "vit" else "bitfit").eval()
    torch.testing.assert_close(adapted(images), model.encode_image(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "pool", "proj"), [("vit_tiny_patch16_224", "token", ""), ("resnet18", "avg", "linear")]
)
def test_open_clip_models_around_timm_towers(name, pool, proj):
    torch.manual_seed(0)
    tower = open_clip.timm_model.TimmModel(name, 192, image_size=224, pool=pool, proj=proj, pretrained=False).eval()
    tower.image_mean, tower.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    adapted = xmodal.adapt(
        tower, "lora" if "vit" in name else "conv_adapter", **({} if "vit" in name else {"norms": "none"})
    )
    images = torch.randn(1, 3, 224, 224)
    plain = adapted.use(None).eval()(images)
    torch.testing.assert_close(plain, tower(images), atol=1e-5, rtol=1e-4)
    assert adapted.encoder.pixel_mean == (0.5, 0.5, 0.5)


def test_switching_and_mixing_in_one_batch(model, images):
    adapted = filled(xmodal.adapt(model, "lora", name="a"))
    adapted.add("vpt", "b", num_tokens=3)
    adapted.add("convpass", "c", hidden=4)
    for name in "bc":
        filled(adapted.use(name))
    alone = {name: adapted.use(name)(images) for name in "abc"}
    assert not torch.allclose(alone["a"], alone["b"])
    mixed = adapted.use("c")(images, adapter=["b", "a", "b", "c"])
    torch.testing.assert_close(mixed, torch.stack([alone[n][i] for i, n in enumerate("babc")]))
    torch.testing.assert_close(adapted(images), alone["c"])
    torch.testing.assert_close(adapted.use(None)(images), model(images))
    mixed.sum().backward()
    twin = copy.deepcopy(adapted).use("a")
    torch.testing.assert_close(twin(images), alone["a"])


def test_saved_and_loaded_beside_another(model, images, tmp_path):
    first = filled(xmodal.adapt(model, "fact", rank=4, form="tk"))
    first.save(tmp_path / "task")
    notes = json.loads((tmp_path / "task" / "adapter.json").read_text())
    assert notes["method"] == "fact"
    assert notes["arguments"] == {"rank": 4, "form": "tk"}
    assert (tmp_path / "task" / "adapter.safetensors").stat().st_size < 8000
    second = xmodal.adapt(model, "lora").load(tmp_path / "task", name="again").eval()
    torch.testing.assert_close(second(images), first(images))
    torch.testing.assert_close(second.merged()(images), first.encoder(images), atol=1e-4, rtol=1e-4)
    other = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3)
    with pytest.raises(ValueError, match="not on this tower"):
        xmodal.adapt(other, "lora").load(tmp_path / "task")


def test_mistakes_are_explained(model):
    with pytest.raises(ValueError, match="did you mean 'lora'"):
        xmodal.adapt(model, "lorra")
    with pytest.raises(ValueError, match="did you mean 'rank'"):
        xmodal.adapt(model, "lora", ranks=8)
    with pytest.raises(ValueError, match="no timm or open_clip"):
        xmodal.adapt(torch.nn.Linear(2, 2))
    adapted = xmodal.adapt(model, "lora")
    with pytest.raises(ValueError, match="another name"):
        adapted.add("lora")
    with pytest.raises(ValueError, match="beside"):
        adapted.add("bitfit")
    with pytest.raises(ValueError, match="no adapter is called"):
        adapted.use("loro")
    with pytest.raises(ValueError, match="one for each"):
        adapted(torch.zeros(2, 3, 32, 32), adapter=["lora"])
    assert isinstance(adapted, Adapted)
