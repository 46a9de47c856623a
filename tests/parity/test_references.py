"""Builders and modules against formulas in float64, at sizes and with options that no shipped case has."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_jepa as jepa
from tests.parity import _reference_probes as probes
from tests.parity import _reference_video as video

AIMS = [
    dict(width=56, heads=7, layers=2, patch_size=4, num_frames=3, num_tadapter=2, adapter_scale=2, hidden=122, side=3),
    dict(width=40, heads=2, layers=4, patch_size=5, num_frames=5, num_tadapter=1, adapter_scale=1.3, hidden=60, side=2),
    dict(width=24, heads=1, layers=1, patch_size=4, num_frames=2, num_tadapter=2, adapter_scale=0.5, hidden=96, side=2),
]  # fmt: skip


@pytest.mark.parametrize("sizes", AIMS, ids=str)
def test_aim(sizes):
    a = dict(sizes, num_classes=5, drop_path_rate=0.1)
    hidden, side = a.pop("hidden"), a.pop("side")
    a["input_resolution"] = side * a["patch_size"]
    shape = [2, 3, a["num_frames"], a["input_resolution"], a["input_resolution"]]
    variant = dict(num_tadapter=a["num_tadapter"], state=video.aim_shapes(a, hidden, side))
    about = dict(system="aim", seed=3, arch=a, variants={"x": variant}, inputs={"video": {"shape": shape}})
    r.judge(about, video.variants(video.aim_variant))


SIDES = [
    dict(width=56, heads=7, layers=2, patch_size=4, T=3, side_dim=24, side_heads=3, hidden=122, side=3),
    dict(width=40, heads=2, layers=3, patch_size=5, T=1, side_dim=16, side_heads=1, hidden=100, side=2),
    dict(width=48, heads=4, layers=5, patch_size=4, T=6, side_dim=128, side_heads=2, hidden=96, side=2),
]  # fmt: skip


@pytest.mark.parametrize("sizes", SIDES, ids=str)
def test_side4video(sizes):
    a = dict(sizes, num_classes=5)
    hidden, side = a.pop("hidden"), a.pop("side")
    size = a["input_resolution"] = side * a["patch_size"]
    about = dict(system="side4video", seed=4, arch=a, state=video.side_shapes(a, hidden, side), labels=[4, 0],
                 inputs={"video": {"shape": [2, a["T"], 3, size, size]}})  # fmt: skip
    r.judge(about, video.side4video)
    about |= dict(system="side4video_eva", state=video.eva_shapes(a | {"embed_dim": 6}, hidden, side))
    r.judge(about, video.side4video_eva)


DISTS = [
    dict(width=40, layers=3, heads=5, patch_size=4, frames=12, alpha=3, selected_layers=[0, 2], temporal_dim=10,
         integration_dim=24, integration_heads=3, t_patch_size=3, temporal_kernel_size=5, ada_pooling_layers=1,
         temporal_conv_mlp_ratio=2, integration_mlp_ratio=0.5, integration_temporal_mlp_ratio=0.5, hidden=100, side=3),
    dict(width=56, layers=2, heads=2, patch_size=5, frames=3, alpha=1, selected_layers=[1], temporal_dim=7,
         integration_dim=16, integration_heads=1, t_patch_size=1, temporal_kernel_size=1, ada_pooling_layers=3,
         temporal_conv_mlp_ratio=0.75, integration_mlp_ratio=1.3, integration_temporal_mlp_ratio=0.3, hidden=122,
         side=2),
    dict(width=24, layers=4, heads=2, patch_size=4, frames=8, alpha=4, selected_layers=[0, 1, 3], temporal_dim=9,
         integration_dim=20, integration_heads=5, t_patch_size=7, temporal_kernel_size=3, ada_pooling_layers=2,
         temporal_conv_mlp_ratio=1, integration_mlp_ratio=2, integration_temporal_mlp_ratio=0.25, hidden=48, side=2),
]  # fmt: skip


@pytest.mark.parametrize("sizes", DISTS, ids=lambda s: f"alpha {s['alpha']}")
def test_dist(sizes):
    a = dict(sizes, embed_dim=11, logit_scale_log=1.7)
    hidden, side = a.pop("hidden"), a.pop("side")
    size = a["input_resolution"] = side * a["patch_size"]
    inputs = {"video": {"shape": [2, a["frames"], 3, size, size]}, "text_features": {"shape": [4, 11]}}
    about = dict(system="dist", seed=5, arch=a, state=probes.dist_shapes(a, hidden, side), inputs=inputs)
    r.judge(about, probes.dist)


TOWERS = [
    dict(embed_dim=48, num_heads=6, depth=2, tubelet_size=2, patch_size=4, hidden=100),  # heads of 8: 6 turn
    dict(embed_dim=40, num_heads=2, depth=3, tubelet_size=3, patch_size=5, hidden=122),  # heads of 20: 18 turn
    dict(embed_dim=88, num_heads=4, depth=1, tubelet_size=1, patch_size=4, hidden=196),  # heads of 22: 18 turn
]


@pytest.mark.parametrize("sizes", TOWERS, ids=lambda s: f"heads of {s['embed_dim'] // s['num_heads']}")
def test_vjepa2(sizes):
    a = dict(sizes, out_layers=[0, sizes["depth"] - 1] if sizes["depth"] > 1 else [0])
    hidden, p, t = a.pop("hidden"), a["patch_size"], a["tubelet_size"]
    a |= dict(img_size=3 * p, num_frames=2 * t, mlp_ratio=hidden / a["embed_dim"])
    inputs = {"video": {"shape": [2, 3, 2 * t, 3 * p, 3 * p]}, "video_other": {"shape": [1, 3, 3 * t, 2 * p, 4 * p]},
              "image": {"shape": [2, 3, 3 * p, 3 * p]}}  # fmt: skip
    about = dict(system="vjepa2", seed=6, arch=a, state=jepa.jepa_shapes(a, hidden), inputs=inputs,
                 masks=[[0, 4, 17], [1, 9, 10]])  # fmt: skip
    r.judge(about, jepa.vjepa2)


LATER = [
    dict(embed_dim=24, num_heads=2, tubelet_size=2, patch_size=14, interpolate_rope=True, hidden=50),  # all turn
    dict(embed_dim=40, num_heads=2, tubelet_size=1, patch_size=16, interpolate_rope=False, hidden=70),
]


@pytest.mark.parametrize("sizes", LATER, ids=lambda s: f"patches of {s['patch_size']}")
def test_vjepa2_1(sizes):
    a = dict(sizes, depth=12, hierarchical_layers=[2, 5, 8, 11])
    hidden, p, t = a.pop("hidden"), a["patch_size"], a["tubelet_size"]
    a |= dict(img_size=2 * p, num_frames=2 * t, mlp_ratio=hidden / a["embed_dim"])
    inputs = {"video": {"shape": [2, 3, 2 * t, 2 * p, 2 * p]}, "video_other": {"shape": [1, 3, 3 * t, 1 * p, 3 * p]},
              "image": {"shape": [2, 3, 1, 2 * p, 2 * p]}}  # fmt: skip
    about = dict(system="vjepa2_1", seed=6, arch=a, state=jepa.later_shapes(a, hidden), inputs=inputs,
                 masks=[[0, 4], [1, 7]])  # fmt: skip
    r.judge(about, jepa.vjepa2_1)


PROBES = [
    dict(encoder=TOWERS[0], probe_heads=3, probe_mlp_ratio=2.3, segments=3, views=2, depths=[1, 3], out_layers=[1]),
    dict(encoder=TOWERS[1], probe_heads=8, probe_mlp_ratio=4.0, segments=1, views=1, depths=[2], out_layers=[0, 1, 2]),
]


@pytest.mark.parametrize("sizes", PROBES, ids=lambda s: f"{s['segments']} segments")
def test_probe_of_vjepa2(sizes):
    a = dict(sizes, num_classes=5, encoder=dict(sizes["encoder"]))
    e, depths = a["encoder"], a.pop("depths")
    hidden, d, t, size = e.pop("hidden"), e["embed_dim"], e["tubelet_size"], 2 * e["patch_size"]
    e |= dict(img_size=size, num_frames=2 * t)
    state = {f"encoder.{k}": v for k, v in jepa.jepa_shapes(e, hidden).items()}
    for n in depths:
        state |= {f"p{n}.{k}": v for k, v in jepa.probe_shapes(d, n, a["probe_mlp_ratio"], 5).items()}
    clips = [f"clip{s}_view{v}" for s in range(a["segments"]) for v in range(a["views"])]
    schedules = [
        dict(start_lr=5e-4, lr=1e-3, final_lr=1e-4, warmup=0.5, weight_decay=0.3, final_weight_decay=0.1, epochs=2.5,
             ipe=4),
        dict(start_lr=2e-3, lr=1e-3, final_lr=0.0, warmup=1.0, weight_decay=0.0, final_weight_decay=0.4, epochs=3,
             ipe=3),
        dict(start_lr=1e-3, lr=1e-3, final_lr=1e-3, warmup=0.0, weight_decay=0.1, final_weight_decay=0.1, epochs=1,
             ipe=7),
    ]  # fmt: skip
    about = dict(system="vjepa2_probe", seed=7, arch=a, state=state, labels=[3, 1], schedules=schedules,
                 inputs={k: {"shape": [2, 3, 2 * t, size, size]} for k in clips},
                 variants={f"p{n}": dict(depth=n, prefix=f"p{n}.") for n in depths},
                 tolerance="abs 1e-4 + 2e-5*|value|")  # fmt: skip
    r.judge(about, jepa.vjepa2_probe)


def test_efficient_probing():
    variants = {"a": dict(num_queries=3, d_out=4, prefix="a.", weight_decay=0.05), "b": dict(num_queries=12, d_out=1,
                prefix="b."), "c": dict(num_queries=2, d_out=6, prefix="c.")}  # fmt: skip
    state = {}
    for v in variants.values():
        q, out, at = v["num_queries"], 24 // v["d_out"], v["prefix"]
        state |= {f"{at}0.cls_token": [1, q, 24], f"{at}0.v.weight": [out, 24], f"{at}2.weight": [7, out]}
        state |= {f"{at}1.running_mean": [out], f"{at}1.running_var": [out], f"{at}1.num_batches_tracked": []}
        state |= {f"{at}2.bias": [7]} | ({f"{at}0.v.bias": [out]} if at == "c." else {})
    optimizer = dict(lr=0.8, min_lr=0.05, warmup_epochs=3, epochs=5, momentum=0.8, trust_coefficient=0.002, steps=4)
    about = dict(system="efficient_probing", seed=8, arch=dict(dim=24, num_classes=7, bn_eps=1e-4, bn_momentum=0.3),
                 state=state, variants=variants, optimiser=optimizer, labels=[6, 0, 2, 2, 1],
                 inputs={k: {"shape": [5, 9, 24]} for k in ("tokens", "tokens_train")},
                 tolerance="abs 1e-4 + 2e-5*|value|")  # fmt: skip
    r.judge(about, probes.efficient_probing)


@pytest.mark.parametrize(("dim", "heads", "frames"), [(24, 3, 5), (10, 1, 1)])
def test_step_probe(dim, heads, frames):
    state = {"cls_token": [1, 1, dim], "frame_pos": [1, frames, 1, dim], **r.affine("qkv", 3 * dim, dim)}
    state |= r.affine("proj", dim, dim) | r.affine("head", 5, dim)
    about = dict(system="step_probe", seed=9, state=state, inputs={"tokens": {"shape": [3, frames, 4, dim]}},
                 arch=dict(dim=dim, frames=frames, heads=heads, num_classes=5, tokens_per_frame=4))  # fmt: skip
    r.judge(about, probes.step_probe)
