"""Adapters on somebody's own model: same outputs before, switching, mixing in a batch, saving."""

import copy
import itertools
import json
import pickle
import subprocess
import sys
from contextlib import nullcontext

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import xmodal
from tests.xmodal.adapters.towers import refill, vit
from xmodal.adapted import Adapted, tower_and_head
from xmodal.encoders.parts import DropPath
from xmodal.encoders.sites import Edits, Stream, place, placed


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
        "assert not {'mmengine', 'open_clip', 'cv2'} & set(sys.modules)"
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
    mixed = adapted.use("c")(images, adapter=["b", "c", "b", "a"])
    torch.testing.assert_close(mixed, torch.stack([alone[n][i] for i, n in enumerate("bcba")]))
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
    torch.testing.assert_close(second.merged()(images), first(images), atol=1e-4, rtol=1e-4)
    other = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3)
    with pytest.raises(ValueError, match="not on this tower"):
        xmodal.adapt(other, "lora").load(tmp_path / "task")


@pytest.mark.parametrize("method", ["lora", "vpt", "noah"])
def test_training_leaves_the_frozen_tower_in_evaluation_mode(method, model):
    adapted = xmodal.adapt(model, method)
    for mode in (True, False, True):
        adapted.train(mode)
        own = {m for _, part in placed(adapted.encoder) for m in part.modules()}
        assert {m.training for m in own} == {mode}
        assert adapted.head.training == mode
        weights = [m for m in adapted.encoder.modules() if m not in own and dict(m.named_parameters(recurse=False))]
        bare = [m for m in adapted.encoder.modules() if m not in own and not list(m.children())]
        frozen = [m for m in (*weights, *bare) if not isinstance(m, Stream | Edits | DropPath)]
        assert len(frozen) > 30
        assert not any(m.training for m in frozen)
    assert not any(p.requires_grad for n, p in adapted.encoder.named_parameters() if f".{method}." not in n)


def test_training_leaves_the_frozen_norms_of_a_convnet_as_they_are(images):
    torch.manual_seed(0)
    adapted = xmodal.adapt(timm.create_model("resnet18", num_classes=5), "conv_adapter", norms="none")
    before = {k: v.clone() for k, v in adapted.encoder.body.state_dict().items()}
    adapted.train()(images * 3 + 1).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in adapted.encoder.body.state_dict().items())


def test_switching_takes_the_weights_away_and_brings_them_back(model, images):
    adapted = filled(xmodal.adapt(model, "lora", name="a"))
    weights = {k: v.clone() for k, v in adapted.trained().items()}
    feature = adapted(images)
    filled(adapted.add("lora", "b", rank=2))
    assert adapted.active == "b"
    assert not any(".a." in k for k in adapted.trained())
    assert all(".b." in key or key.startswith("head.") for key in adapted.saved())
    assert {name.rsplit(".", 1)[1] for name, _ in placed(adapted.encoder)} == {"b"}
    adapted.use("b").use(None)
    assert not list(placed(adapted.encoder))
    assert set(adapted.parked) == {"a", "b"}
    with pytest.raises(ValueError, match="no adapter is in use"):
        adapted.save("nowhere")
    adapted.use("a")
    assert set(adapted.parked) == {"b"}
    assert adapted.trained().keys() == weights.keys()
    assert all(torch.equal(v, weights[k]) for k, v in adapted.trained().items())
    torch.testing.assert_close(adapted(images), feature)


def test_a_mixed_batch_leaves_the_adapter_in_use_and_learns_in_all_that_it_names(model, images):
    adapted = filled(xmodal.adapt(model, "lora", name="a"))
    filled(adapted.add("lora", "b"))
    with pytest.raises(ValueError, match="no adapter is called 'd'; known are a, b"):
        adapted.use("a")(images, adapter=["a", "b", "d", "b"])
    assert adapted.active == "a"
    adapted.use("a")(images, adapter=["a", "b", "b", "b"]).sum().backward()
    assert adapted.active == "a"
    assert all(p.grad.abs().max() > 0 for p in adapted.trained().values())
    assert all(p.grad.abs().max() > 0 for p in adapted.use("b").trained().values())


def test_the_file_brings_its_head_its_arguments_and_its_name(model, images, tmp_path):
    first = filled(xmodal.adapt(model, "lora", num_classes=3, name="mine", rank=2, alpha=8))
    torch.nn.init.normal_(first.head.weight)
    first.save(tmp_path)
    second = xmodal.adapt(model, "vpt", num_classes=3).load(tmp_path).eval()
    assert second.active == "mine"
    torch.testing.assert_close(second(images), first(images))
    assert second.methods["mine"] == {"method": "lora", "arguments": {"rank": 2, "alpha": 8}}
    again = second.load(tmp_path, "twin").eval()
    torch.testing.assert_close(again(images), first(images))
    assert set(again.methods) == {"vpt", "mine", "twin"}
    torch.testing.assert_close(xmodal.adapt(model, "vpt", num_classes=4).load(tmp_path).eval()(images), first(images))
    with pytest.raises(FileNotFoundError):
        second.load(tmp_path / "none")


def test_a_tower_of_the_same_name_with_other_weights_is_refused(model, tmp_path):
    xmodal.adapt(model, "lora").save(tmp_path)
    other = copy.deepcopy(model)
    other.blocks[1].mlp.fc1.weight.data[0, 0] += 1e-3
    assert xmodal.adapt(other, "lora").encoder.name == xmodal.adapt(model, "lora").encoder.name
    with pytest.raises(ValueError, match="not on this tower"):
        xmodal.adapt(other, "vpt").load(tmp_path)


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_the_model_given_shares_nothing_with_the_adapted_one(kind, model, images):
    given = model if kind == "timm" else vit()
    before = {k: v.clone() for k, v in given.state_dict().items()}
    adapted = xmodal.adapt(given, "bitfit")
    for p in adapted.parameters():
        p.data.add_(1.0)
    assert all(torch.equal(v, before[k]) for k, v in given.state_dict().items())
    assert all(p.requires_grad for p in given.parameters())


def test_a_new_head_starts_small_around_zero():
    torch.manual_seed(0)
    head = xmodal.adapt(vit(dim=96), "lora", num_classes=100).head
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.bias.any()
    assert isinstance(xmodal.adapt(vit(), "lora").head, torch.nn.Identity)


def open_clip_model(**options):
    vision = dict(image_size=32, layers=2, width=64, patch_size=8)
    text = dict(context_length=8, vocab_size=64, width=64, heads=2, layers=1)
    return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, **options).eval()


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_the_activation_of_an_open_clip_model_is_kept(quick_gelu, images):
    torch.manual_seed(0)
    model = open_clip_model(quick_gelu=quick_gelu)
    refill(model.visual, 0.2)
    want = model.encode_image(images)
    torch.testing.assert_close(xmodal.adapt(model).eval()(images), want, atol=1e-4, rtol=1e-4)


MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_statistics_are_those_of_the_model():
    def statistics(model, **options):
        encoder = xmodal.adapt(model, **options).encoder
        return tuple(encoder.pixel_mean), tuple(encoder.pixel_std)

    plain = open_clip_model()
    assert statistics(plain) == OPENAI
    plain.visual.image_mean, plain.visual.image_std = MEAN, STD
    assert statistics(plain) == (MEAN, STD)
    for name, options in (("vit_tiny_patch16_224", {}), ("resnet18", dict(method="bitfit"))):
        model = timm.create_model(name, **({"depth": 1} if "vit" in name else {}))
        model.pretrained_cfg = {**model.pretrained_cfg, "mean": MEAN, "std": STD}
        assert statistics(model, **options) == (MEAN, STD)
    tower = open_clip.timm_model.TimmModel("vit_tiny_patch16_224", 192, image_size=224, pool="token", proj="")
    tower.image_mean, tower.image_std = MEAN, STD
    assert statistics(tower) == (MEAN, STD)


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
    with pytest.raises(ValueError, match="no adapter is called"):
        adapted.use("loro")
    with pytest.raises(ValueError, match="one for each"):
        adapted(torch.zeros(2, 3, 32, 32), adapter=["lora"])
    assert isinstance(adapted, Adapted)


@pytest.mark.parametrize("norms", ["paper", "all"])
def test_the_statistics_that_move_with_trained_norms_are_in_the_file(norms, images, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=5)
    first = xmodal.adapt(model, "conv_adapter", norms=norms)
    for _ in range(3):
        first.train()(images * 3 + 1)
    first.eval().save(tmp_path)
    second = Adapted(*tower_and_head(model)).load(tmp_path).eval()
    torch.testing.assert_close(second(images), first(images))


def redrawn(adapted, std=0.3):
    with torch.no_grad():
        for p in adapted.trained().values():
            p.add_(torch.randn_like(p) * std)
    return adapted


METHODS = [("lora", {}), ("bitfit", {}), ("ssf", {}), ("vpt", {"num_tokens": 3}), ("norms", {})]


def several(model):
    """Adapters of all kinds on one tower, each with a head of its own."""
    adapted = None
    for i, (method, arguments) in enumerate(METHODS[:4]):
        if adapted is None:
            adapted = xmodal.adapt(model, method, num_classes=3, name=method, **arguments)
        else:
            adapted.add(method, num_classes=3, **arguments)
        torch.manual_seed(i)
        redrawn(adapted)
    return adapted


def test_every_adapter_gives_what_it_gave_alone(model, images):
    """Heads, biases of the tower and modules, in any order, alone and mixed, after a copy and through a pickle."""
    adapted, names = several(model).eval(), [m for m, _ in METHODS[:4]]
    alone = {}
    for i, (method, arguments) in enumerate(METHODS[:4]):
        torch.manual_seed(100)
        single = xmodal.adapt(model, method, num_classes=3, **arguments)
        torch.manual_seed(i)
        alone[method] = redrawn(single).eval()
        for key, value in adapted.use(method).trained().items():
            alone[method].trained()[key].data.copy_(value)
    heads = [adapted.use(name).head.weight for name in names]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(heads, 2))
    for twin in (adapted, copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        for name in (*names, *reversed(names)):
            torch.testing.assert_close(twin.use(name)(images), alone[name](images))
        mixed = twin(images, adapter=names)
        torch.testing.assert_close(mixed, torch.stack([alone[n](images)[i] for i, n in enumerate(names)]))
        torch.testing.assert_close(
            twin.use(None).encoder(images), model.forward_head(model.forward_features(images), True)
        )
        twin.use(names[-1])


def test_only_the_adapter_in_use_trains(model, images):
    adapted = several(model)
    for name, _ in METHODS[:4]:
        adapted.use(name).train()
        asked = {k for k, p in adapted.named_parameters() if p.requires_grad}
        assert asked == set(adapted.trained())
        before = {k: v.clone() for k, v in adapted.state_dict().items()}
        optimizer = torch.optim.SGD(adapted.parameters(), lr=0.1, weight_decay=0.1)
        adapted(images).square().sum().backward()
        optimizer.step()
        moved = {k for k, v in adapted.state_dict().items() if not torch.equal(v, before[k])}
        assert moved
        assert moved <= asked
        adapted.zero_grad()


@pytest.mark.parametrize("name", ["attn", "blocks", "qkv", "0", "task.v1", "keys", "type", "edits"])
def test_any_name_is_saved_and_loaded_under_any_other(name, model, images, tmp_path):
    first = redrawn(xmodal.adapt(model, "lora", num_classes=3, name=name)).eval()
    first.save(tmp_path)
    for other in (None, "other", "mlp", "a.b"):
        second = Adapted(*tower_and_head(model)).load(tmp_path, other).eval()
        assert second.active == (other or name)
        torch.testing.assert_close(second(images), first(images))


def places_one_and_fails(encoder, name):
    place(encoder.blocks[0], "pre_mlp", name, torch.nn.Linear(24, 24))
    encoder.norm.requires_grad_(True)
    raise ValueError("half way")


def test_a_failed_load_or_add_changes_nothing(model, images, tmp_path, monkeypatch):
    adapted = several(model).eval()
    want = {name: adapted.use(name)(images) for name in adapted.methods}
    keys = set(adapted.state_dict())
    xmodal.adapt(model, "lora", rank=2, num_classes=3, name="odd").save(tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    odd = {k: v[:1] if v.ndim == 2 and "head" not in k else v for k, v in tensors.items()}
    save_file({k: v.contiguous() for k, v in odd.items()}, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        adapted.load(tmp_path)
    with pytest.raises(ValueError, match="blocks"):
        adapted.add("lora", "more", blocks=[0, 99])
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter\.json was not written by save"):
        adapted.load(tmp_path)
    monkeypatch.setattr("xmodal.adapted.method_called", lambda method: places_one_and_fails)
    with pytest.raises(ValueError, match="half way"):
        adapted.add("lora", "half")
    assert set(adapted.state_dict()) == keys
    assert not any(p.requires_grad for p in adapted.encoder.norm.parameters())
    for name, value in want.items():
        torch.testing.assert_close(adapted.use(name)(images), value)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_keeps_its_precision(kind, images):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    model = model.eval().to(kind)
    adapted = xmodal.adapt(model, "lora", num_classes=5).eval()
    found = adapted.use(None).encoder(images.to(kind))
    want = model.forward_head(model.forward_features(images.to(kind)), pre_logits=True)
    assert found.dtype == kind
    torch.testing.assert_close(found, want, atol=1e-9 if kind == torch.float64 else 0.05, rtol=0.02)
    assert adapted.use("lora")(images.to(kind)).dtype == kind


@pytest.mark.parametrize(("name", "method"), [("vit_tiny_patch16_224", "lora"), ("resnet18", "none")])
@pytest.mark.parametrize("classes", [None, 3])
def test_merged_is_the_model_that_was_given(name, method, classes, images):
    if method == "none":
        pytest.skip("no adapter of convolutional towers can be folded")
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5).eval()
    adapted = redrawn(xmodal.adapt(model, method, num_classes=classes)).eval()
    merged = adapted.merged()
    assert type(merged) is type(model)
    assert merged.get_classifier().out_features == (classes or 5)
    torch.testing.assert_close(merged(images), adapted(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("classes", [None, 3])
def test_merged_open_clip_towers(classes, images):
    torch.manual_seed(0)
    model = open_clip_model()
    adapted = redrawn(xmodal.adapt(model, "lora", num_classes=classes)).eval()
    merged = adapted.merged()
    found = merged.encode_image(images) if classes is None else merged(images)
    torch.testing.assert_close(found, adapted(images), atol=1e-4, rtol=1e-4)


def test_a_head_that_is_a_convolution_is_kept():
    torch.manual_seed(0)
    model = timm.create_model("resnetv2_50x1_bit", num_classes=4).eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(xmodal.adapt(model, "bitfit").eval()(images), model(images), atol=1e-4, rtol=1e-4)


def test_stochastic_depth_and_the_classifiers_dropout_are_kept(images):
    options = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3)
    model = timm.create_model("vit_tiny_patch16_224", drop_path_rate=0.4, drop_rate=0.3, proj_drop_rate=0.1, **options)
    with pytest.warns(UserWarning, match="runs without its dropout"):
        adapted = xmodal.adapt(model, "lora")
    assert [b.drop_path1.drop_prob for b in adapted.encoder.blocks] == pytest.approx([0, 0.2, 0.4])
    torch.nn.init.zeros_(adapted.head.weight)
    adapted.head.weight.data[:, 0] = 1
    ones = torch.ones(2000, 24)
    kept = adapted.head.train()(ones)[:, 0] - adapted.head.bias[0]
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert (adapted.head.eval()(ones)[:, 0] - adapted.head.bias[0] == 1).all()


@pytest.mark.parametrize("options", [dict(dynamic_img_size=True, dynamic_img_pad=True), {}])
def test_images_that_patches_do_not_divide_are_padded(options):
    """As timm does where it pads; nothing at the edges is lost."""
    torch.manual_seed(0)
    shape = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    model = timm.create_model("vit_tiny_patch16_224", **shape, **options).eval()
    padding = timm.create_model("vit_tiny_patch16_224", **shape, dynamic_img_size=True, dynamic_img_pad=True).eval()
    padding.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 45, 37)
    with nullcontext() if options else pytest.warns(UserWarning, match="45 x 37 pixels are padded"):
        found = xmodal.adapt(model, "lora").eval()(images)
    torch.testing.assert_close(found, padding(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_pooling_over_the_prefix_tokens(pool, images):
    torch.manual_seed(0)
    options = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    options |= dict(global_pool=pool, pool_include_prefix=True, class_token=False, reg_tokens=2)
    model = timm.models.vision_transformer.VisionTransformer(**options).eval()
    refill(model, 0.2)
    torch.testing.assert_close(xmodal.adapt(model, "lora").eval()(images), model(images), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_adapted_is_said_in_one_line():
    for name in ("resnet18", "vit_tiny_patch16_224"):
        model = timm.create_model(name, features_only=True)
        with pytest.raises(ValueError, match="features_only=True"):
            xmodal.adapt(model, "conv_adapter")
    with torch.device("meta"):
        for name in ("mixnet_s", "convnext_tiny_hnf"):
            with pytest.raises(ValueError, match=r"is not supported|does not work on"):
                xmodal.adapt(timm.create_model(name), "conv_adapter")
    with pytest.raises(ValueError, match="images of 1 channels"):
        xmodal.adapt(timm.create_model("vit_tiny_patch16_224", in_chans=1, depth=1))


def test_a_dynamic_batch_can_be_exported(model, images):
    for method in ("lora", "vpt", "bitfit"):
        adapted = redrawn(xmodal.adapt(model, method)).eval()
        program = torch.export.export(adapted, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
        more = torch.randn(7, 3, 32, 32)
        torch.testing.assert_close(program.module()(more), adapted(more))
