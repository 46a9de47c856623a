"""ST-Adapter and EVL against formulas in float64, at sizes and with options that no shipped case has."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_clips as clips

ADAPTED = [
    dict(width=56, heads=7, layers=2, patch_size=4, num_frames=3, adapter_width=5, adapter_layers=2, side=3,
         adapter_kernel_size=[3, 3, 5], adapter_pre_attn=True, adapter_pre_mlp=True, hidden=122, batch=2),
    dict(width=40, heads=1, layers=3, patch_size=5, num_frames=1, adapter_width=60, adapter_layers=1, side=2,
         adapter_kernel_size=[5, 1, 1], adapter_pre_attn=True, adapter_pre_mlp=False, hidden=100, batch=1),
    dict(width=24, heads=3, layers=2, patch_size=4, num_frames=6, adapter_width=7, adapter_layers=2, side=1,
         adapter_kernel_size=[1, 3, 1], adapter_pre_attn=False, adapter_pre_mlp=True, hidden=96, batch=2),
    dict(width=24, heads=2, layers=3, patch_size=4, num_frames=2, adapter_width=8, adapter_layers=3, side=4,
         adapter_kernel_size=[7, 1, 1], adapter_pre_attn=True, adapter_pre_mlp=True, hidden=50, batch=3),
]  # fmt: skip


@pytest.mark.parametrize("sizes", ADAPTED, ids=lambda s: str(s["adapter_kernel_size"]))
def test_st_adapter(sizes):
    a = dict(sizes, num_classes=2 if sizes["side"] == 1 else 5)
    hidden, side, batch = a.pop("hidden"), a.pop("side"), a.pop("batch")
    size = a["input_resolution"] = side * a["patch_size"]
    about = dict(system="ST-Adapter", seed=41, arch=a, state=clips.adapter_shapes(a, hidden),
                 inputs={"video": {"shape": [batch, 3, a["num_frames"], size, size]}})  # fmt: skip
    r.judge(about, clips.st_adapter)


DECODERS = [
    dict(vit=dict(width=56, heads=7, layers=3, patch_size=4), side=3, num_frames=3, decoder_num_layers=3,
         decoder_qkv_dim=24, decoder_num_heads=3, decoder_mlp_factor=1.3, on=(1, 1, 1), hidden=122, batch=2),
    dict(vit=dict(width=40, heads=1, layers=2, patch_size=5), side=2, num_frames=1, decoder_num_layers=1,
         decoder_qkv_dim=80, decoder_num_heads=1, decoder_mlp_factor=2.99, on=(1, 1, 1), hidden=90, batch=1),
    dict(vit=dict(width=24, heads=3, layers=2, patch_size=4), side=5, num_frames=2, decoder_num_layers=2,
         decoder_qkv_dim=24, decoder_num_heads=2, decoder_mlp_factor=4.0, on=(0, 0, 1), hidden=96, batch=1),
    dict(vit=dict(width=24, heads=3, layers=4, patch_size=4), side=1, num_frames=4, decoder_num_layers=2,
         decoder_qkv_dim=18, decoder_num_heads=6, decoder_mlp_factor=0.5, on=(1, 0, 0), hidden=96, batch=2),
    dict(vit=dict(width=24, heads=2, layers=4, patch_size=4), side=2, num_frames=5, decoder_num_layers=3,
         decoder_qkv_dim=24, decoder_num_heads=4, decoder_mlp_factor=3.0, on=(0, 1, 0), hidden=96, batch=2),
    dict(vit=dict(width=24, heads=2, layers=2, patch_size=4), side=4, num_frames=3, decoder_num_layers=2,
         decoder_qkv_dim=24, decoder_num_heads=4, decoder_mlp_factor=3.0, on=(0, 0, 0), hidden=96, batch=2),
]  # fmt: skip


@pytest.mark.parametrize("sizes", DECODERS, ids=lambda s: f"{s['on']}, {s['num_frames']} frames")
def test_evl(sizes):
    a = dict(sizes, vit=dict(sizes["vit"]), num_classes=5)
    hidden, side, batch, v = a.pop("hidden"), a.pop("side"), a.pop("batch"), a["vit"]
    for name, on in zip(("conv", "pos_embed", "cross_attention"), a.pop("on"), strict=True):
        a[f"enable_temporal_{name}"] = bool(on)
    size = v["image_size"] = side * v["patch_size"]
    about = dict(system="EVL", seed=42, arch=a, state=clips.evl_shapes(a, hidden),
                 zero_effect_trainable=[f"decoder.decoder_layers.{i}.attn.k_proj.bias" for i in range(3)],
                 inputs={"video": {"shape": [batch, 3, a["num_frames"], size, size]}})  # fmt: skip
    r.judge(about, clips.evl)
