"""EPCL and Uni3D against formulas in float64, at sizes and with options that no shipped case has."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_epcl as epcl
from tests.parity import _reference_mixer as mixer
from tests.parity import _reference_uni3d as uni3d

OBJECTS = [
    dict(clip_width=24, clip_heads=3, clip_layers=1, clip_proj_dim=10, clip_patch=4, cls_dim=2, num_group=7,
         group_size=5, use_task_emb=True, tasks=9, hidden=100, head=11, points=40),
    dict(clip_width=20, clip_heads=1, clip_layers=2, clip_proj_dim=33, clip_patch=5, cls_dim=6, num_group=13,
         group_size=1, use_task_emb=False, tasks=0, hidden=51, head=256, points=33),
    dict(clip_width=16, clip_heads=4, clip_layers=2, clip_proj_dim=16, clip_patch=4, cls_dim=4, num_group=25,
         group_size=25, use_task_emb=True, tasks=1, hidden=64, head=8, points=25),
]  # fmt: skip


@pytest.mark.parametrize("sizes", OBJECTS, ids=lambda a: f"{a['num_group']} groups")
def test_classification(sizes):
    a = dict(sizes)
    state = epcl.classification_shapes(a, a.pop("hidden"), a.pop("head"))
    about = dict(system="EPCL classification", seed=91, arch=a, state=state, inputs={"pts": [2, a.pop("points"), 3]})
    r.judge(about | {"tolerance": "abs 5e-5 + 5e-5*|value|"}, epcl.classification)


VOXELS = [
    dict(width=24, clip_heads=3, clip_layers=1, tokenizer_dim=5, num_group=9, group_size=4, voxel_size=0.02,
         num_task_tokens=3, sizes=[31, 12, 50]),
    dict(width=16, clip_heads=1, clip_layers=2, tokenizer_dim=40, num_group=3, group_size=7, voxel_size=0.1,
         num_task_tokens=1, sizes=[17]),
]  # fmt: skip


@pytest.mark.parametrize("a", VOXELS, ids=lambda a: f"{len(a['sizes'])} clouds")
def test_dense_encoder(a):
    inputs = {"feats": [sum(a["sizes"]), a["tokenizer_dim"]], "cls_pos": [a["width"]]}
    about = dict(system="EPCL dense-feature encoder", seed=92, arch=a, state=epcl.dense_shapes(a, 70), inputs=inputs)
    r.judge(about | {"tolerance": "abs 5e-5 + 5e-5*|value|"}, epcl.dense)


ROOMS = [
    dict(width=12, clip_heads=3, clip_layers=1, classes=5, c=6, blocks=[2, 1, 3, 2, 2], planes=[8, 8, 16, 16, 8],
         share_planes=4, nsample=[4, 2, 8, 4, 8], stride=[1, 2, 2, 2, 2], cloud_sizes=[50, 71], num_task_tokens=3),
    dict(width=8, clip_heads=1, clip_layers=2, classes=2, c=3, blocks=[2, 2, 2, 2, 2], planes=[6, 12, 6, 12, 12],
         share_planes=2, nsample=[3, 3, 6, 6, 4], stride=[1, 3, 2, 2, 1], cloud_sizes=[61], num_task_tokens=2),
]  # fmt: skip


@pytest.mark.parametrize("a", ROOMS, ids=lambda a: f"{len(a['cloud_sizes'])} clouds")
def test_segmentation(a):
    inputs = {k: [sum(a["cloud_sizes"]), 3] for k in ("coord", "feat")} | {"cls_pos": [a["width"]]}
    about = dict(system="EPCL indoor segmentation", seed=93, arch=a, state=mixer.segmenter_shapes(a, 50), inputs=inputs)
    r.judge(about | {"tolerance": "abs 1e-4 + 1e-4*|value|"}, mixer.segmenter)


CLOUDS = {
    "giant": dict(embed_dim=20, depth=1, num_heads=1, mlp_ratio=2.61, num_classes=3),
    "base": dict(embed_dim=24, depth=2, num_heads=3, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, num_classes=2,
                 use_rot_pos_emb=True, mlp_ratio=8 / 3),
    "tiny": dict(embed_dim=16, depth=3, num_heads=4, mlp_ratio=8 / 3, swiglu_mlp=True, use_rot_pos_emb=True,
                 num_classes=0),
}  # fmt: skip


@pytest.mark.parametrize("images", [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]], ids=["one image", "images"])
def test_uni3d(images):
    a = dict(points=40, num_group=9, group_size=5, pc_encoder_dim=11, embed_dim=13, eva_img_size=8, eva_patch=4,
             ln_eps=1e-6)  # fmt: skip
    variants = {k: {"eva": eva, "state": uni3d.uni3d_shapes(a, eva)} for k, eva in CLOUDS.items()}
    inputs = {k: {"shape": [3, 40, 3]} for k in ("xyz", "rgb")} | {k: {"shape": [3, 13]} for k in ("text", "image")}
    about = dict(system="uni3d", seed=94, arch=a, variants=variants, inputs={**inputs, "use_image": images})
    r.judge(about | {"state_offset": {"logit_scale": 1.0}, "tolerance": "abs 1e-4 + 1e-4*|value|"}, uni3d.uni3d)
