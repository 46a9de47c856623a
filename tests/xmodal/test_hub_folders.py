"""Hugging Face folders on disk: towers equal those of transformers on random weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.xmodal.adapters.towers import refill
from xmodal.encoders.hub_folders import hub_folder_encoder

transformers = pytest.importorskip("transformers")
SIZES = dict(hidden_size=24, num_attention_heads=2, num_hidden_layers=2, image_size=32, patch_size=8)
WIDE = dict(SIZES, intermediate_size=40)


def clip():
    config = transformers.CLIPConfig(
        text_config=dict(
            hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16, vocab_size=30
        ),
        vision_config=WIDE, projection_dim=12,
    )  # fmt: skip
    return transformers.CLIPModel(config), lambda model, x: model.visual_projection(model.vision_model(x).pooler_output)


def clip_vision():
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**WIDE, hidden_act="gelu"))
    return model, lambda model, x: model(x).pooler_output


def siglip_vision():
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**WIDE))
    return model, lambda model, x: model(x).pooler_output


def dinov2():
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=3))
    return model, lambda model, x: model(x).pooler_output


def dinov2_with_registers():
    config = transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=3, num_register_tokens=3)
    return transformers.Dinov2WithRegistersModel(config), lambda model, x: model(x).pooler_output


def vit():
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**WIDE))
    return model, lambda model, x: model.vit(x).last_hidden_state[:, 0]


def dinov3():
    config = transformers.DINOv3ViTConfig(**WIDE, num_register_tokens=2)
    return transformers.DINOv3ViTModel(config), lambda model, x: model(x).pooler_output


def dinov3_gated():
    config = transformers.DINOv3ViTConfig(**WIDE, use_gated_mlp=True, hidden_act="silu", query_bias=False)
    return transformers.DINOv3ViTModel(config), lambda model, x: model(x).pooler_output


@pytest.mark.parametrize(
    "make", [clip, clip_vision, siglip_vision, vit, dinov2, dinov2_with_registers, dinov3, dinov3_gated]
)
@torch.no_grad()
def test_it_equals_transformers(make, tmp_path):
    torch.manual_seed(0)
    model, feature = make()
    refill(model, 0.2).eval().save_pretrained(tmp_path / "x")
    ours = hub_folder_encoder(str(tmp_path / "x"))
    images = torch.randn(2, 3, 32, 32)
    want = feature(model, images)
    assert want.std() > 0.01
    assert (ours(images) - want).abs().max() < 1e-5
    larger = hub_folder_encoder(str(tmp_path / "x"), image_size=48)
    assert (larger(torch.randn(1, 3, 48, 48)).shape, larger.image_size) == ((1, want.shape[1]), 48)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@torch.no_grad()
def test_weights_in_several_files(kind, tmp_path):
    torch.manual_seed(0)
    model, feature = clip()
    refill(model, 0.2).eval().save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    assert len(names) > 2
    if kind == "bin":  # as older releases have them
        for name in names:
            torch.save(
                load_file(tmp_path / name),
                tmp_path / name.replace("model", "pytorch_model").replace(".safetensors", ".bin"),
            )
            (tmp_path / name).unlink()
        text = index.read_text().replace('"model-', '"pytorch_model-').replace(".safetensors", ".bin")
        (tmp_path / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    images = torch.randn(2, 3, 32, 32)
    assert (hub_folder_encoder(str(tmp_path))(images) - feature(model, images)).abs().max() < 1e-5
    last = sorted(tmp_path.glob("*-of-*"))[-1]
    last.unlink()
    with pytest.raises(FileNotFoundError, match=rf"index\.json names {last.name}, which is not beside it"):
        hub_folder_encoder(str(tmp_path))


@torch.no_grad()
def test_an_old_folder_with_one_torch_file(tmp_path):
    torch.manual_seed(0)
    model, feature = dinov2()
    refill(model, 0.2).eval().config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    images = torch.randn(2, 3, 32, 32)
    assert (hub_folder_encoder(str(tmp_path))(images) - feature(model, images)).abs().max() < 1e-5


def pixels_of(images, patch):
    """Patches (B, N, 3*P*P) of images of several sizes, their mask and their grids, as transformers wants them."""
    grids = torch.tensor([(x.shape[1] // patch, x.shape[2] // patch) for x in images])
    count = int(grids.prod(1).max())
    pixels, mask = torch.zeros(len(images), count, 3 * patch * patch), torch.zeros(len(images), count, dtype=torch.long)
    for i, (image, (h, w)) in enumerate(zip(images, grids.tolist(), strict=True)):
        own = image.view(3, h, patch, w, patch).permute(1, 3, 2, 4, 0).reshape(h * w, -1)
        pixels[i, : h * w], mask[i, : h * w] = own, 1
    return dict(pixel_values=pixels, pixel_attention_mask=mask, spatial_shapes=grids)


@torch.no_grad()
def test_siglip2_with_images_of_several_sizes_equals_transformers(tmp_path):
    torch.manual_seed(0)
    sizes = {key: value for key, value in WIDE.items() if key != "image_size"}
    model = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**sizes, num_patches=16))
    refill(model, 0.2).eval().save_pretrained(tmp_path / "x")
    ours = hub_folder_encoder(str(tmp_path / "x"))
    images = [torch.randn(3, 32, 32), torch.randn(3, 16, 56), torch.randn(3, 40, 24)]
    want = model(**pixels_of(images, 8)).pooler_output
    tokens, grid = ours.embed(images)
    found = ours.pool(ours.forward_tokens(tokens, grid), grid)
    assert want.std() > 0.01
    assert (found - want).abs().max() < 1e-5
    assert ours.image_size == 32


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        hub_folder_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(FileNotFoundError, match=r"none of model\.safetensors, .*pytorch_model\.bin"):
        hub_folder_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        hub_folder_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    for config, said in (
        ({"model_type": "dinov22"}, "did you mean 'dinov2'"),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, "use_swiglu_ffn"),
        ({"model_type": "dinov2", "hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"model_type": "dinov3_vit", "mlp_bias": False}, "proj_bias and mlp_bias differ"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=said):
            hub_folder_encoder(str(tmp_path))
