"""Weight files of every layout the field publishes, faults in them, exports, fingerprints, the shipped tiny CLIP."""

import copy
import json
import re

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.xmodal.test_encoders import OPEN_CLIP_SMALL, SMALL, live_open_clip
from tests.xmodal.test_text import stirred
from xmodal.encoders.clip import zero_shot_weights
from xmodal.encoders.files import load_exactly, read_state
from xmodal.encoders.frozen import fingerprint
from xmodal.encoders.keys import (
    base_state,
    from_clip_state,
    from_clip_visual_state,
    from_timm_state,
    to_clip_state,
    to_clip_visual_state,
    to_timm_state,
)
from xmodal.encoders.openai_weights import openai_clip, openai_encoder, vision_spec
from xmodal.encoders.openclip_configs import config_of
from xmodal.encoders.openclip_weights import build as build_open_clip
from xmodal.encoders.openclip_weights import open_clip_clip, open_clip_encoder
from xmodal.encoders.sites import place
from xmodal.encoders.timm_weights import from_timm, timm_encoder
from xmodal.encoders.tiny import tiny_clip, tiny_clip_encoder
from xmodal.encoders.tokenizer import ClipTokenizer
from xmodal.registry import ENCODERS, build

PLAIN = "vit_small_patch16_224.dino"
TINY = dict(
    embed_dim=32,
    vision_cfg=dict(width=64, layers=2, head_width=64, image_size=64),
    text_cfg=dict(width=64, layers=2, heads=1),
)


@pytest.fixture
def plain():
    return stirred(timm.create_model(PLAIN, num_classes=0, **SMALL))


@pytest.fixture
def openai():
    """A live CLIP of OpenAI's layout: heads of 64, QuickGELU."""
    model = open_clip.model.CLIP(32, dict(TINY["vision_cfg"], patch_size=16), dict(TINY["text_cfg"]), quick_gelu=True)
    return stirred(model, std=0.03)


def agree(ours, theirs, size=224):
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert (ours(images) - theirs(images)).abs().max() < 1e-5


def save_torch(state, path):
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
def test_torch_files(plain, wrap, tmp_path):
    state = {**plain.state_dict(), "head.weight": torch.zeros(3, 48), "head.bias": torch.zeros(3)}
    path = save_torch(wrap(state), tmp_path / "w.pth")
    tower = timm_encoder(PLAIN, path, arch=SMALL)
    agree(tower, plain)
    assert tower.name == f"{PLAIN}/w"
    assert all(p.requires_grad and not p.is_meta for p in tower.parameters())


def test_safetensors_with_a_common_prefix_and_another_resolution(plain, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({f"module.backbone.{k}": v for k, v in plain.state_dict().items()}, path)
    agree(timm_encoder(PLAIN, str(path), arch=SMALL), plain)
    tower = timm_encoder(PLAIN, str(path), image_size=96, arch=SMALL)
    assert torch.equal(tower.pos_embed, from_timm(plain, image_size=96).pos_embed)


def test_half_precision_files_are_widened(plain, tmp_path):
    save_file({k: v.half() for k, v in plain.state_dict().items()}, tmp_path / "w.safetensors")
    tower = timm_encoder(PLAIN, str(tmp_path / "w.safetensors"), arch=SMALL)
    assert tower.pos_embed.dtype == torch.float32


def test_official_dinov2_file_with_registers(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    theirs = stirred(timm.create_model(name, num_classes=0, **SMALL))
    state = dict(theirs.state_dict())
    first = torch.randn(1, 1, 48)  # the official file adds a position to its class token
    state["register_tokens"], state["mask_token"] = state.pop("reg_token"), torch.zeros(1, 48)
    state["cls_token"] = state["cls_token"] - first
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    path = save_torch(state, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    agree(timm_encoder(name, path, arch=SMALL), theirs, 518)


def jax_arrays(model):
    """The arrays of a JAX checkpoint of AugReg's kind: kernels (in, out), heads apart, NHWC convolutions."""
    heads, dim = 3, 48
    out = {
        "embedding/kernel": model.patch_embed.proj.weight.permute(2, 3, 1, 0),
        "embedding/bias": model.patch_embed.proj.bias,
        "cls": model.cls_token,
        "Transformer/posembed_input/pos_embedding": model.pos_embed,
        "Transformer/encoder_norm/scale": model.norm.weight,
        "Transformer/encoder_norm/bias": model.norm.bias,
        "head/kernel": torch.zeros(dim, 10),
        "head/bias": torch.zeros(10),
    }
    for i, block in enumerate(model.blocks):
        at = f"Transformer/encoderblock_{i}/"
        attention = at + "MultiHeadDotProductAttention_1/"
        for part, weight, bias in zip(
            ("query", "key", "value"), block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True
        ):
            out[f"{attention}{part}/kernel"] = weight.t().reshape(dim, heads, dim // heads)
            out[f"{attention}{part}/bias"] = bias.reshape(heads, dim // heads)
        out[f"{attention}out/kernel"] = block.attn.proj.weight.t().reshape(heads, dim // heads, dim)
        out[f"{attention}out/bias"] = block.attn.proj.bias
        for j, linear in enumerate((block.mlp.fc1, block.mlp.fc2)):
            out[f"{at}MlpBlock_3/Dense_{j}/kernel"], out[f"{at}MlpBlock_3/Dense_{j}/bias"] = (
                linear.weight.t(),
                linear.bias,
            )
        for j, norm in ((0, block.norm1), (2, block.norm2)):
            out[f"{at}LayerNorm_{j}/scale"], out[f"{at}LayerNorm_{j}/bias"] = norm.weight, norm.bias
    return {key: value.detach().numpy() for key, value in out.items()}


def test_jax_npz_file(tmp_path):
    name = "vit_base_patch16_224.augreg_in21k"
    theirs = stirred(timm.create_model(name, num_classes=0, **SMALL))
    np.savez(tmp_path / "ViT-B_16.npz", **jax_arrays(theirs))
    agree(timm_encoder(name, str(tmp_path / "ViT-B_16.npz"), arch=SMALL), theirs)
    with pytest.raises(ValueError, match="timm_encoder"):
        read_state(tmp_path / "ViT-B_16.npz")


def test_files_that_do_not_fit_are_refused(plain, tmp_path):
    state = plain.state_dict()
    for change, said in (
        ({"blocks.0.norm1.weight": None}, r"missing: blocks\.0\.norm1\.weight"),
        ({"blocks.0.norm9.weight": torch.zeros(1)}, r"left over: blocks\.0\.norm9\.weight"),
        ({"norm.weight": torch.zeros(47)}, r"of another shape: norm\.weight"),
        ({"patch_embed.proj.weight": torch.zeros(48, 3, 32, 32)}, "patches of 32 pixels"),
    ):
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        with pytest.raises(ValueError, match=said):
            timm_encoder(PLAIN, save_torch(changed, tmp_path / "w.pth"), arch=SMALL)
    with pytest.raises(ValueError, match="no state dict"):
        read_state(save_torch({"epoch": 3}, tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        timm_encoder(PLAIN, str(tmp_path / "nowhere.pth"), arch=SMALL)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_that_cannot_be_fetched_say_what_to_download(monkeypatch):
    real = timm.create_model

    def offline(name, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("no route")
        return real(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileNotFoundError, match=r"timm/vit_small_patch16_224\.dino .*weights='/path") as error:
        timm_encoder(PLAIN)
    assert "http" not in str(error.value)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", lambda origin: offline("x", True))
    with pytest.raises(FileNotFoundError, match=r"laion/CLIP-ViT-B-16-laion2B-s34B-b88K .*pretrained='/path"):
        open_clip_encoder("ViT-B-16", "laion2b_s34b_b88k")
    with pytest.raises(ValueError, match="no weights"):
        timm_encoder("vit_base_patch16_reg4_gap_256")
    with pytest.raises(FileNotFoundError, match=r"ViT-B-16\.pt .*path='/path"):
        openai_encoder("/nowhere/ViT-B-16.pt")


def test_open_clip_files_and_tags(monkeypatch, tmp_path):
    theirs = stirred(live_open_clip("ViT-B-32"), std=0.03)
    path = save_torch({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "e.pt")
    ours = open_clip_encoder("ViT-B-32", path, arch=OPEN_CLIP_SMALL)
    agree(ours, theirs.visual)
    assert ours.name == "ViT-B-32/e"
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", lambda origin: path)
    clip = open_clip_clip("ViT-B-32", "laion2b_s34b_b79k", image_size=96, arch=OPEN_CLIP_SMALL)
    assert clip.visual.image_size == 96
    assert clip.visual.pos_embed.shape[1] == 10
    assert clip.name == "ViT-B-32/laion2b_s34b_b79k"
    assert torch.equal(clip.logit_scale, theirs.logit_scale)


def torchscript(model, path):
    """Publish a CLIP the way OpenAI does: a traced module with three extra numbers, in half precision."""
    for key, value in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49408)):
        model.__dict__.pop(key, None)
        model.register_buffer(key, torch.tensor(value))
    traced = torch.jit.trace(model, (torch.randn(1, 3, 64, 64), ClipTokenizer()("a")), check_trace=False)
    torch.jit.save(traced, path)
    return str(path)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_openai_torchscript_file(openai, tmp_path):
    reference = copy.deepcopy(openai)
    path = torchscript(openai, tmp_path / "ViT-X-16.pt")
    ours = openai_clip(path)
    ids = ours.tokenize(["a photo of a cat", "dog"])
    agree(ours.visual, reference.visual, 64)
    with torch.no_grad():
        assert (ours.encode_text(ids) - reference.encode_text(ids)).abs().max() < 1e-5
    assert (ours.name, ours.visual.image_size, ours.visual.depth) == ("openai/ViT-X-16", 64, 2)
    assert openai_encoder(path, image_size=96).pos_embed.shape[1] == 37
    with pytest.raises(ValueError, match="TorchScript"):
        read_state(path)
    arch = {**TINY, "vision_cfg": dict(TINY["vision_cfg"], patch_size=16)}
    with pytest.raises(ValueError, match="take 'ViT-B-16-quickgelu'"):
        open_clip_encoder("ViT-B-16", path, arch=arch)
    agree(open_clip_encoder("ViT-B-16-quickgelu", path, arch=arch), reference.visual, 64)


def test_openai_weights_as_a_plain_state_dict(openai, tmp_path):
    save_file({k: v.half() for k, v in openai.state_dict().items()}, tmp_path / "clip.safetensors")
    half = copy.deepcopy(openai).half().float()
    agree(openai_encoder(str(tmp_path / "clip.safetensors")), half.visual, 64)
    path = save_torch(openai.visual.state_dict(), tmp_path / "visual.pth")
    agree(openai_encoder(path), openai.visual, 64)
    with pytest.raises(ValueError, match="image tower only"):
        openai_clip(path)
    assert openai_encoder(path, weights="random", seed=5).name == "openai/visual/random-5"
    with pytest.raises(ValueError, match="pretraind"):
        openai_encoder(path, weights="pretraind")


def test_hidden_widths_of_an_openai_file_are_read_exactly():
    shapes = {"conv1.weight": (704, 3, 16, 16), "positional_embedding": (17, 704),
              "transformer.resblocks.0.mlp.c_fc.weight": (960, 704)}  # fmt: skip
    spec = vision_spec({f"visual.{k}": torch.empty(s, device="meta") for k, s in shapes.items()}, "wide")
    assert int(704 * spec["mlp_ratio"]) == 960  # int(704 * (960 / 704)) is 959


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("visual.layer1.0.conv1.weight", (2,), "ResNet"),
        ("vision_model.embeddings.class_embedding", (2,), "transformers package"),
        ("something.weight", (2,), "no CLIP vision transformer"),
        ("visual.class_embedding", (1280,), "open_clip_encoder"),
    ],
)
def test_other_clip_files_are_refused_by_name(key, shape, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        openai_encoder(save_torch({key: torch.zeros(shape)}, tmp_path / "x.pt"))


def test_exports_leave_out_what_is_placed_and_refuse_what_has_no_name(openai, plain):
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

    tower = tiny_clip_encoder()
    before = to_clip_visual_state(tower.state_dict())
    for site in ("attn.qkv", "pre_mlp", "post"):
        place(tower.blocks[0], site, "same", Same())
    place(tower, "pre_blocks", "same", Same())
    after = to_clip_visual_state(tower.state_dict())
    assert before.keys() == after.keys()
    assert from_clip_visual_state(after).keys() == to_timm_state(tower.state_dict()).keys() | {"proj.weight"}
    with pytest.raises(ValueError, match="patch_embed"):
        to_clip_visual_state(from_timm(plain).state_dict())
    with pytest.raises(ValueError, match=re.escape("'ln_9.weight'")):
        from_clip_visual_state({"visual.ln_9.weight": torch.zeros(1)})


def test_fingerprint_tells_weights_apart():
    tower = tiny_clip_encoder()
    first = fingerprint(tower)
    assert first == fingerprint(tiny_clip_encoder())
    with torch.no_grad():
        tower.blocks[3].mlp.fc2.bias[0] += 1e-6
    assert fingerprint(tower) != first


def test_shipped_tiny_clip():
    clip = tiny_clip()
    assert torch.equal(clip.visual.pos_embed, tiny_clip_encoder().pos_embed)
    assert zero_shot_weights(clip, ["red circle", "blue star"], ["a {}"]).shape == (2, clip.out_dim)
    assert clip.tokenizer.unknown(["a zebra"]) == ["zebra"]
    assert tiny_clip_encoder(image_size=64)(torch.randn(1, 3, 64, 64)).shape == (1, clip.out_dim)
    random = tiny_clip_encoder(weights="random", seed=1)
    assert fingerprint(random) == fingerprint(tiny_clip_encoder(weights="random", seed=1))
    assert fingerprint(random) != fingerprint(clip.visual)
    with pytest.raises(ValueError, match="rndom"):
        tiny_clip(weights="rndom")


@pytest.mark.parametrize(
    "name", ["timm_encoder", "open_clip_encoder", "open_clip_clip", "openai_encoder", "openai_clip"]
)
def test_encoders_are_config_types(name):
    assert name in ENCODERS
    with pytest.raises(ValueError, match="image_size"):
        build(dict(type=name, image_sise=64), ENCODERS)


def test_build_from_a_config():
    assert build(dict(type="tiny_clip_encoder", weights="random", image_size=32), ENCODERS).image_size == 32


OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_what_openais_files_do_not_say(openai, tmp_path):
    """QuickGELU in both towers, heads of 64, CLIP's statistics; options of both doors reach the image tower."""
    save_file(openai.state_dict(), tmp_path / "clip.safetensors")
    path = str(tmp_path / "clip.safetensors")
    ours = openai_clip(path)
    agree(ours.visual, openai.visual, 64)
    ids = ours.tokenize(["a photo of a cat", "dog"])
    with torch.no_grad():
        assert (ours.encode_text(ids) - openai.encode_text(ids)).abs().max() < 1e-5
    for tower in (ours.visual, openai_encoder(path), openai_encoder(path, weights="random")):
        assert (tower.pixel_mean, tower.pixel_std) == OPENAI
        assert not tower.training
        assert [block.drop_path1.drop_prob for block in tower.blocks] == [0, 0]
    for tower in (openai_encoder(path, drop_path=0.4), openai_clip(path, drop_path=0.4).visual):
        assert [block.drop_path2.drop_prob for block in tower.blocks] == [0, 0.4]
    assert openai_clip(path, image_size=96).visual.pos_embed.shape[1] == 37
    random = openai_clip(path, weights="random", seed=3)
    assert torch.equal(random.visual.pos_embed, openai_clip(path, weights="random", seed=3).visual.pos_embed)
    assert random.name == "openai/clip/random-3"


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "teacher", "model_state_dict", "state_dict_ema"])
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "base_encoder.", "backbone.", "encoder."]
)
def test_wrappers_and_common_prefixes_come_off(wrapper, prefix, tmp_path):
    state = {"a.weight": torch.ones(1), "b": torch.zeros(2)}
    path = save_torch({wrapper: {f"{prefix}{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "w.pth")
    assert read_state(path).keys() == state.keys()
    mixed = save_torch({f"{prefix}a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "mixed.pth")
    assert read_state(mixed).keys() == {f"{prefix}a", "b"}  # only one that every key has


def test_averaged_weights_are_taken_as_timm_takes_them(plain, tmp_path):
    other = {key: value + 1 for key, value in plain.state_dict().items()}
    for name in ("state_dict_ema", "model_ema"):
        torch.save({"state_dict": other, name: plain.state_dict()}, tmp_path / "w.pth")
        agree(timm_encoder(PLAIN, weights=str(tmp_path / "w.pth"), arch=SMALL), plain)
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": None}, tmp_path / "w.pth")
    agree(timm_encoder(PLAIN, weights=str(tmp_path / "w.pth"), arch=SMALL), plain)


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("module.backbone.", "module.head.mlp.0.weight"),
        ("backbone.", "dino_head.last_layer.weight_v"),
        ("module.base_encoder.", "module.momentum_encoder.cls_token"),
        ("_orig_mod.model.", "_orig_mod.projector.0.weight"),
    ],
)
def test_self_supervised_checkpoints_with_their_heads(plain, prefix, beside, tmp_path):
    """DINO: `teacher` with `module.backbone.` and `module.head.`; DINOv2: `backbone.` and `dino_head.`."""
    state = {f"{prefix}{key}": value for key, value in plain.state_dict().items()}
    torch.save({"student": {}, "teacher": state | {beside: torch.ones(3)}, "epoch": 3}, tmp_path / "w.pth")
    agree(timm_encoder(PLAIN, weights=str(tmp_path / "w.pth"), arch=SMALL), plain)


def test_an_index_of_several_files(plain, tmp_path):
    state = plain.state_dict()
    parts = {f"model-0000{i}.safetensors": dict(list(state.items())[i::3]) for i in range(3)}
    for name, part in parts.items():
        save_file({key: value.contiguous() for key, value in part.items()}, tmp_path / name)
    files = {key: name for name, part in parts.items() for key in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    agree(timm_encoder(PLAIN, weights=str(index), arch=SMALL), plain)
    for text, said in (("{}", "no index of weights"), ("[", "no index of weights")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=f"bad.json is {said}"):
            timm_encoder(PLAIN, weights=str(tmp_path / "bad.json"), arch=SMALL)
    files["blocks.0.more"] = "model-00001.safetensors"
    index.write_text(json.dumps({"weight_map": files}))
    with pytest.raises(
        ValueError, match=r"promises blocks\.0\.more in model-00001\.safetensors, which does not hold it"
    ):
        timm_encoder(PLAIN, weights=str(index), arch=SMALL)


def test_a_prefix_that_is_not_known_is_said(plain, tmp_path):
    torch.save({f"tower.{key}": value for key, value in plain.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth does not fit .*left over: tower\..*every name begins with 'tower'"):
        timm_encoder(PLAIN, weights=str(tmp_path / "w.pth"), arch=SMALL)


def test_loading_widens_takes_all_and_ends_in_evaluation_mode():
    tower = nn.Linear(2, 2).train()
    load_exactly(tower, {"weight": torch.ones(2, 2).half(), "bias": torch.ones(2).bfloat16()}, "x")
    assert {p.dtype for p in tower.parameters()} == {torch.float32}
    assert not tower.training
    assert tower.weight.sum() == 4
    with torch.device("meta"):
        empty = nn.BatchNorm1d(2)
    state = {**nn.BatchNorm1d(2).state_dict(), "num_batches_tracked": torch.tensor(7)}
    assert load_exactly(empty, state, "x").num_batches_tracked.dtype == torch.int64


def test_heads_of_timm_and_deit_are_left_out_and_nothing_else():
    keys = ["cls_token", "blocks.0.attn.qkv.weight", "norm.weight", "fc_norm.weight", "headless"]
    heads = ["head.weight", "head.bias", "head_dist.weight", "pre_logits.fc.weight"]
    assert set(from_timm_state(dict.fromkeys(keys + heads))) == set(keys)


def test_what_is_placed_is_no_base_weight():
    own = ["blocks.0.norm1.weight", "poster.weight", "pos_embed", "proj.weight"]
    placed = [f"blocks.0.{site}.lora.a" for site in ("attn.qkv.edits", "pre_attn", "pre_mlp", "post")]
    assert list(base_state(dict.fromkeys([*own, *placed, "pre_blocks.vpt.tokens", "edits.x"]))) == own


def test_the_layout_of_clip_written_out():
    """Names and shapes of OpenAI's file; projections lie the other way round."""
    names = {
        "visual.class_embedding": ((4,), "visual.cls_token", (1, 1, 4)),
        "visual.positional_embedding": ((5, 4), "visual.pos_embed", (1, 5, 4)),
        "visual.conv1.weight": ((4, 3, 8, 8), "visual.patch_embed.proj.weight", (4, 3, 8, 8)),
        "visual.ln_pre.bias": ((4,), "visual.norm_pre.bias", (4,)),
        "visual.ln_post.weight": ((4,), "visual.norm.weight", (4,)),
        "visual.proj": ((4, 6), "visual.proj.weight", (6, 4)),
        "visual.transformer.resblocks.3.attn.in_proj_weight": ((12, 4), "visual.blocks.3.attn.qkv.weight", (12, 4)),
        "visual.transformer.resblocks.3.attn.out_proj.bias": ((4,), "visual.blocks.3.attn.proj.bias", (4,)),
        "visual.transformer.resblocks.3.ln_1.weight": ((4,), "visual.blocks.3.norm1.weight", (4,)),
        "visual.transformer.resblocks.3.ln_2.weight": ((4,), "visual.blocks.3.norm2.weight", (4,)),
        "visual.transformer.resblocks.3.mlp.c_fc.weight": ((16, 4), "visual.blocks.3.mlp.fc1.weight", (16, 4)),
        "visual.transformer.resblocks.3.mlp.c_proj.weight": ((4, 16), "visual.blocks.3.mlp.fc2.weight", (4, 16)),
        "transformer.resblocks.0.attn.in_proj_bias": ((12,), "text.blocks.0.attn.qkv.bias", (12,)),
        "token_embedding.weight": ((9, 4), "text.token_embedding.weight", (9, 4)),
        "positional_embedding": ((7, 4), "text.pos_embed", (7, 4)),
        "ln_final.weight": ((4,), "text.norm.weight", (4,)),
        "text_projection": ((4, 6), "text.proj.weight", (6, 4)),
        "logit_scale": ((), "logit_scale", ()),
    }
    state = {key: torch.randn(shape) for key, (shape, _, _) in names.items()}
    ours = from_clip_state({**state, "input_resolution": torch.tensor(32), "vocab_size": torch.tensor(9)})
    assert {key: tuple(value.shape) for key, value in ours.items()} == {
        ours: shape for _, ours, shape in names.values()
    }
    assert torch.equal(ours["visual.proj.weight"], state["visual.proj"].t())
    assert torch.equal(ours["text.proj.weight"], state["text_projection"].t())
    back = to_clip_state(ours)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert from_clip_state({**state, "logit_bias": torch.tensor([-10.0])})["logit_bias"].shape == ()


def test_siglips_bias_of_the_similarity_is_kept():
    keys = dict(vision_cfg=dict(width=64, layers=1, head_width=32, image_size=32, patch_size=16))
    config = {**config_of("ViT-B-32", OPEN_CLIP_SMALL), **keys, "quick_gelu": False, "init_logit_bias": -10}
    assert build_open_clip(config, "ViT-B-32", "x").logit_bias.item() == -10
    assert build_open_clip({**config, "init_logit_bias": None}, "ViT-B-32", "x").logit_bias is None
