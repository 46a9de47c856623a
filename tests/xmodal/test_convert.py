"""Official checkpoints in and out: rules and their order, prefixes, values, and every name of every released file."""

import re

import pytest
import torch

import video.checkpoints  # noqa: F401  (registers its converters)
import xmodal.official.adapters  # noqa: F401
from tests.xmodal.adapters.towers import build, convnext, resnet, swin, vit
from xmodal.official.names import CONVERTERS, Converter, find_converter, read_official, rename, rename_key
from xmodal.registry import ADAPTERS, load_catalog
from xmodal.vqt import VisualQueries

load_catalog()


def test_the_first_rule_that_matches_a_whole_key_renames_it():
    rules = [("a.{i}.w", "x.{i}"), ("a.1.w", "never"), ("b", "y"), ("c.{i+1}.{x}", "z.{i}.{x}")]
    assert rename({"a.1.w": 1, "b": 2, "c.1.d.e": 3}, rules) == {"x.1": 1, "y": 2, "z.0.d.e": 3}
    assert rename({"z.0.d.e": 3}, [(new, old) for old, new in rules]) == {"c.1.d.e": 3}
    for key in ("a.1.w.more", "more.a.1.w", "bb", "c.0.d"):
        with pytest.raises(ValueError, match=re.escape(repr(key))):
            rename_key(key, rules)


def test_prefixes_come_off_and_go_back_on_and_values_change_both_ways():
    values = (lambda key, v: v + 1 if key == "one" else v, lambda key, v: v - 1 if key == "one" else v)
    converter = Converter("toy", [("a", "one"), ("b", "two")], "module.", values=values)
    official = {"module.a": torch.tensor(1.0), "module.b": torch.tensor(5.0)}
    ours = converter.to_ours(official)
    assert {k: v.item() for k, v in ours.items()} == {"one": 2, "two": 5}
    assert converter.to_official(ours) == official
    assert converter.knows(official)
    assert not converter.knows({**official, "module.c": 0})
    assert not converter.knows({})


def test_files_are_read_without_running_code_and_out_of_their_holders(tmp_path):
    state = {"w": torch.ones(2)}
    for content in (
        state,
        {"model": state},
        {"state_dict": state},
        {"model_state": state},
        {"model": {"state_dict": state}},
    ):
        torch.save(content, tmp_path / "x.pth")
        assert torch.equal(read_official(tmp_path / "x.pth")["w"], state["w"])
    for content in ([1], {"epoch": 3}, {"model": {"w": "text"}}):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="no state dict"):
            read_official(tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError):
        read_official(tmp_path / "none.pth")

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="without running"):
        read_official(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


FIRST, NINTH = (f"encoder.blocks.{i}.attn.qkv.edits.kadaptation" for i in (0, 9))
SWIN = "encoder.body.layers.1.blocks.0"
# official key: ours, from the key lists of the methods' descriptions
NAMES = {
    "convpass": {
        "blocks.11.adapter_attn.adapter_down.weight": "encoder.blocks.11.attn.edits.convpass.down.weight",
        "blocks.0.adapter_mlp.adapter_conv.bias": "encoder.blocks.0.mlp.edits.convpass.conv.bias",
        "blocks.3.adapter_mlp.adapter_up.weight": "encoder.blocks.3.mlp.edits.convpass.up.weight",
        "head.weight": "head.fc.weight",
    },
    "convpass_swin": {
        "layers.2.blocks.5.adapter_attn.adapter_up.bias": "encoder.body.layers.2.blocks.5.attn.edits.convpass.up.bias",
    },
    "fact": {
        "FacTu.weight": "encoder.blocks.0.attn.qkv.edits.fact.factors.u",
        "FacTv.weight": "encoder.blocks.0.attn.qkv.edits.fact.factors.v",
        "FacTp": "encoder.blocks.0.attn.qkv.edits.fact.factors.p",
        "FacTc": "encoder.blocks.0.attn.qkv.edits.fact.factors.c",
        "blocks.4.attn.k_FacTs.weight": "encoder.blocks.4.attn.qkv.edits.fact.cores.k",
        "blocks.4.attn.proj_FacTs.weight": "encoder.blocks.4.attn.proj.edits.fact.cores.s",
        "blocks.4.mlp.fc1_FacTs.weight": "encoder.blocks.4.mlp.fc1.edits.fact.cores.s",
        "blocks.4.mlp.fc2_FacTs.weight": "encoder.blocks.4.mlp.fc2.edits.fact.cores.s",
    },
    "ssf": {
        "ssf_scale_1": "encoder.norm.edits.ssf.scale",
        "patch_embed.ssf_shift_1": "encoder.patch_embed.edits.ssf.shift",
        "blocks.7.ssf_scale_1": "encoder.blocks.7.norm1.edits.ssf.scale",
        "blocks.7.ssf_shift_2": "encoder.blocks.7.norm2.edits.ssf.shift",
        "blocks.7.attn.ssf_scale_1": "encoder.blocks.7.attn.qkv.edits.ssf.scale",
        "blocks.7.attn.ssf_scale_2": "encoder.blocks.7.attn.proj.edits.ssf.scale",
        "blocks.7.mlp.ssf_shift_1": "encoder.blocks.7.mlp.fc1.edits.ssf.shift",
        "blocks.7.mlp.ssf_shift_2": "encoder.blocks.7.mlp.fc2.edits.ssf.shift",
        "head.bias": "head.fc.bias",
    },
    "vpt": {
        "enc.transformer.prompt_embeddings": "encoder.pre_blocks.vpt.tokens",
        "enc.transformer.deep_prompt_embeddings": "encoder.pre_blocks.vpt.deep",
        "enc.transformer.prompt_proj.bias": "encoder.pre_blocks.vpt.projection.bias",
        "head.last_layer.weight": "head.fc.weight",
    },
    "vqt": {
        "enc.transformer.encoder.query_prompt_embeddings": "reader.queries",
        "enc.combine_params": "reader.coefficients",
        "head.last_layer.bias": "head.fc.bias",
    },
    "kadaptation": {
        "transformer.phm_rule1_left": f"{FIRST}.parts.q.slow.left",
        "transformer.phm_rule2_right": f"{FIRST}.parts.v.slow.right",
        "transformer.resblocks.9.attn.q_proj_adapter1_left": f"{NINTH}.parts.q.left",
        "transformer.resblocks.0.attn.v_proj_adapter1_right": f"{FIRST}.parts.v.right",
        "transformer.resblocks.9.attn.b": f"{NINTH}.bias",
    },
    "noah": {
        "blocks.2.visual_prompt_token": "encoder.blocks.2.pre_attn.noah.tokens",
        "blocks.2.attn.LoRA_a.weight": "encoder.blocks.2.attn.qkv.edits.noah.a",
        "blocks.2.attn.LoRA_b.weight": "encoder.blocks.2.attn.qkv.edits.noah.b",
        "blocks.2.adapter.ln1.weight": "encoder.blocks.2.mlp.edits.noah.down.weight",
        "blocks.2.adapter.ln2.bias": "encoder.blocks.2.mlp.edits.noah.up.bias",
    },
    "conv_adapter_resnet": {
        "layer3.5.tuning_module.conv1.weight": "encoder.body.layer3.5.conv.edits.conv_adapter.conv.weight",
        "layer3.5.tuning_module.conv2.bias": "encoder.body.layer3.5.conv.edits.conv_adapter.up.bias",
        "layer3.5.tuning_module.se": "encoder.body.layer3.5.conv.edits.conv_adapter.alpha",
        "attnpool.tuning_module.fc2.weight": "encoder.body.attnpool.edits.conv_adapter.fc2.weight",
        "norm.running_mean": "encoder.norm.edits.conv_adapter.running_mean",
        "head.linear.weight": "head.fc.weight",
    },
    "conv_adapter_convnext": {
        "stages.2.1.tuning_module.se": "encoder.body.stages.2.blocks.1.conv.edits.conv_adapter.alpha",
        "tuning_module_downsample.0.conv1.weight": "encoder.body.stages.1.downsample.1.edits.conv_adapter.conv.weight",
        "stages.2.1.norm.bias": "encoder.body.stages.2.blocks.1.norm.bias",
        "norm.weight": "encoder.body.head.norm.weight",
    },
    "conv_adapter_swin": {
        "layers.1.blocks.0.tuning_module.conv2.weight": f"{SWIN}.attn.edits.conv_adapter.up.weight",
        "layers.1.blocks.0.norm2.weight": f"{SWIN}.norm2.weight",
        "layers.0.downsample.norm.bias": "encoder.body.layers.1.downsample.norm.bias",
        "patch_embed.norm.weight": "encoder.body.patch_embed.norm.weight",
        "norm.bias": "encoder.body.norm.bias",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_released_names_become_ours_and_ours_become_them(name):
    official = {key: torch.zeros(1) for key in NAMES[name]}
    converter = CONVERTERS[name]
    assert dict(zip(official, converter.to_ours(official), strict=True)) == NAMES[name]
    assert dict.fromkeys(converter.to_official(dict.fromkeys(NAMES[name].values()))) == dict.fromkeys(official)
    assert converter.knows(official)
    assert find_converter(official, name) is converter
    assert not converter.knows({**official, "blocks.0.unheard": 0})


PLACED = {
    "convpass": (vit, {}),
    "fact": (vit, dict(rank=2)),
    "ssf": (vit, {}),
    "vpt": (vit, dict(projection=5)),
    "kadaptation": (vit, dict(terms=4)),
    "noah": (vit, {}),
    "convpass_swin": (swin, {}),
    "conv_adapter_resnet": (resnet, dict(reduction=4)),
    "conv_adapter_convnext": (convnext, dict(reduction=4)),
    "conv_adapter_swin": (swin, dict(reduction=4)),
}


@pytest.mark.parametrize("name", PLACED)
def test_every_trained_weight_of_a_method_has_an_official_name_and_comes_back(name):
    make, options = PLACED[name]
    encoder = build(make)
    ADAPTERS.get(re.sub("_(swin|resnet|convnext)$", "", name))(encoder, **options)
    ours = {f"encoder.{n}": p for n, p in encoder.named_parameters() if p.requires_grad}
    official = CONVERTERS[name].to_official(ours)
    assert len(official) == len(ours)
    back = CONVERTERS[name].to_ours(official)
    assert back.keys() == ours.keys()
    assert all(back[key] is value for key, value in ours.items())


def test_vqt_in_all_its_forms_comes_back():
    for combine in ("concat", "sum"):
        ours = {f"reader.{n}": p for n, p in VisualQueries(build(vit), 2, combine).named_parameters()}
        assert CONVERTERS["vqt"].to_ours(CONVERTERS["vqt"].to_official(ours)).keys() == ours.keys()


def test_the_method_is_told_by_the_keys():
    assert find_converter(dict.fromkeys(NAMES["fact"])).name == "fact"
    assert find_converter(dict.fromkeys(NAMES["kadaptation"])).name == "kadaptation"
    with pytest.raises(ValueError, match="cannot tell"):
        find_converter({"w": 0})
    with pytest.raises(ValueError, match="did you mean 'fact'"):
        find_converter({}, "facct")
