"""Cases of the newer methods with other options than those that ship: weights find their places, everything is finite.

There is no official output here; the numbers are pinned by the cases that ship.
"""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from tests.parity.__main__ import CASES, load_builders
from tests.parity.core import Case, find_builder

load_builders()


def shipped(name):
    return json.loads((CASES / f"{name}_dev.json").read_text())


def compute(about):
    return find_builder(about["system"])(Case(Path(f"{about['system']}.json"), about, {"schedule_lr": np.zeros(4)}))


def check(about, least):
    out = {k: v for k, v in compute(about).items() if not isinstance(v, tuple)}
    assert all(np.isfinite(np.asarray(v, dtype=float)).all() for v in out.values() if v is not None)
    assert len(out) >= least


def bare(depth=3):
    """Adapter+'s case, and its state without adapters."""
    about = shipped("adapter_plus")
    first = about["variants"]["adapter_plus"]
    return about, first, {k: s for k, s in first["state"].items() if ".adapter." not in k}


def test_prompts_of_adapter_plus():
    about, first, state = bare()
    state |= {f"blocks.{i}.prompt": [5, 64] for i in range(3)}
    about["variants"] = {"p": {**first, "adapter": None, "prompt": {"num": 5}, "state": state}}
    check(about, 7)


@pytest.mark.parametrize(("location", "biased"), [("qkvo", "qkvo"), ("qo", "o"), ("kv", "")])
def test_lora_of_adapter_plus(location, biased):
    about, first, state = bare()
    for i in range(3):
        for p in location:
            at = f"blocks.{i}.attn.adapters.{p}.bottleneck"
            state |= {f"{at}.1.weight": [4, 64], f"{at}.4.weight": [64, 4]}
            state |= {f"{at}.1.bias": [4], f"{at}.4.bias": [64]} if p in biased else {}
    low_rank = {**about["variants"]["lora_qk"]["lora"], "dim": 4, "location": list(location), "scaling": 0.5}
    about["variants"] = {"l": {**first, "adapter": None, "lora": low_rank, "state": state}}
    check(about, 3 * 2 * len(location))


POSITIONS = [
    ("parallel", "channel", True, True, False), ("houlsby", "channel", True, False, True),
    ("intermediate", "learned", True, True, True), ("pre", 0.3, True, False, False),
    ("pfeiffer", "learned", False, True, True),
]  # fmt: skip


@pytest.mark.parametrize(("position", "scaling", "norm", "bias", "train_ln"), POSITIONS)
def test_positions_of_adapter_plus(position, scaling, norm, bias, train_ln):
    about, first, state = bare()
    for i in range(3):
        for name in ["adapter", "adapter_attn"] if position == "houlsby" else ["adapter"]:
            at = f"blocks.{i}.{name}"
            state |= {f"{at}.bottleneck.1.weight": [6, 64], f"{at}.bottleneck.4.weight": [64, 6]}
            state |= {f"{at}.bottleneck.1.bias": [6], f"{at}.bottleneck.4.bias": [64]} if bias else {}
            state |= {f"{at}.norm_a.weight": [64], f"{at}.norm_a.bias": [64]} if norm else {}
            state |= {f"{at}.scaling": [1] if scaling == "learned" else [64]} if isinstance(scaling, str) else {}
    options = dict(config=position, scaling=scaling, norm_layer=norm, bias=bias, dim=6)
    adapter = {**first["adapter"], **options}
    about["variants"] = {"x": {**first, "adapter": adapter, "train_ln": train_ln, "state": state}}
    check(about, 12)


FORMS = [
    ("sequential", "out", "learnable_scalar", True, True), ("parallel", "out", "0.3", False, True),
    ("sequential", "in", "0.5", True, False),
]  # fmt: skip


@pytest.mark.parametrize(("option", "norm", "scalar", "pooled", "batch_norm"), FORMS)
def test_forms_of_adaptformer(option, norm, scalar, pooled, batch_norm):
    about = shipped("adaptformer")
    variant = copy.deepcopy(about["variants"]["ln_in"])
    state = variant["state"]
    if scalar == "learnable_scalar":
        state |= {f"blocks.{i}.adaptmlp.scale": [1] for i in range(3)}
    if pooled:
        state = {k: s for k, s in state.items() if not k.startswith("norm.")}
        state |= {"fc_norm.weight": [48], "fc_norm.bias": [48]}
    if batch_norm:
        state = {k: s for k, s in state.items() if not k.startswith("head.")}
        state |= {"head.0.running_mean": [48], "head.0.running_var": [48], "head.0.num_batches_tracked": []}
        state |= {"head.1.weight": [6, 48], "head.1.bias": [6]}
    tuning = dict(ffn_option=option, ffn_adapter_layernorm_option=norm, ffn_adapter_scalar=scalar)
    variant.update(state=state, global_pool=pooled, tuning={**variant["tuning"], **tuning})
    about["variants"] = {"x": variant}
    check(about, 20)


def test_other_first_stages():
    about = shipped("two_stage")
    first, parts = about["variants"]["ln"], ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    keys = [
        f"{t}.resblocks.{i}.{m}.bias" for t in ("visual.transformer", "transformer") for i in range(3) for m in parts
    ]
    keys += ["visual.ln_pre.bias", "visual.ln_post.bias", "ln_final.bias"]
    text = [f"transformer.resblocks.2.{m}.{w}" for m in ("ln_1", "ln_2") for w in ("weight", "bias")]
    about["variants"] = {
        "b": {**first, "peft": "bitfit", "trained_in_stage1": keys},
        "t": {**first, "ln_modality": "text", "ln_text_start": 2, "trained_in_stage1": text},
    }
    check(about, 45)


def test_low_rank_on_everything():
    about, trained = shipped("clip_lora"), {}
    for tower, width in (("visual.transformer", 64), ("transformer", 48)):
        for i in (0, 2):
            for p in ("q_proj", "k_proj", "v_proj", "proj"):
                at = f"{tower}.resblocks.{i}.attn.{p}.w_lora"
                trained |= {f"{at}_A": [3, width], f"{at}_B": [width, 3]}
    options = dict(encoder="both", params=["q", "k", "v", "o"], r=3, alpha=4, dropout_rate=0.1, blocks=[0, 2])
    about["variants"] = {"a": {**options, "trainable": trained}}
    about["training"]["variant"] = "a"
    check(about, 36)


def test_shallow_prompts_of_different_numbers():
    about = shipped("promptsrc")
    about["arch"].update(n_ctx_text=3, n_ctx_vision=2, depth_text=1, depth_vision=1)
    about["trainable"] = {"prompt_learner.ctx": [3, 48], "image_encoder.VPT": [2, 64]}
    check(about, 20)


def test_a_projection_of_some_classes_under_another_rule():
    about = shipped("prolip")
    about["arch"].update(lambda_rule="1/shots^2", train_epoch=3)
    about["variants"] = {"vit.base": {"key": "visual.proj", "n_classes": 3, "search": False}}
    check(about, 6)


def test_a_probe_without_levels_and_values_with_a_bias():
    about = shipped("vjepa2_probe")
    about["arch"].pop("out_layers")
    check(about, 70)
    about = shipped("efficient_probing")
    about["state"]["q4.0.v.bias"] = [48]
    check(about, 30)


def test_dist_on_some_blocks_with_other_widths():
    about = shipped("dist")
    third = tuple(f"dist_net.{n}.2" for n in ("input_linears", "integration2temporal_nets", "temporal2integration_nets",
                                              "temporal_nets", "integration_nets"))  # fmt: skip
    state = {k: list(s) for k, s in about["state"].items() if not k.startswith((*third, "dist_net.adapooling_nets.1"))}
    for key, shape in state.items():
        if key.startswith("dist_net.temporal2integration") and key.endswith("cls_token"):
            shape[2] = 2
        elif key.startswith("dist_net.temporal2integration") and key.endswith("linear_fuse.weight"):
            shape[2] = 4
        elif key.endswith("positional_embedding") and "adapooling" in key:
            shape[1] = 2
        elif ".temporal_net.c_fc1." in key or ".ffn.c_fc." in key:
            shape[0] = 48 if "temporal_net." in key else 32
        elif key.endswith((".temporal_net.c_fc2.weight", ".ffn.c_proj.weight")):
            shape[1] = 48 if "temporal_net." in key else 32
    about["arch"].update(alpha=4, selected_layers=[0, 2], temporal_conv_mlp_ratio=2, integration_mlp_ratio=0.5,
                         ada_pooling_layers=1)  # fmt: skip
    check({**about, "state": state}, 80)
