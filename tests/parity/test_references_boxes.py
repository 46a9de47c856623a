"""V-DETR against its formulas in float64, at sizes and with options that no shipped case has."""

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_boxes as boxes

PLAIN = dict(dim=12, ffn=20, nhead=3, dec_nlayers=3, rpe_dim=7, rpe_quant="bilinear_4_10", log_scale=512, nqueries=9,
             q_content="random", is_bilable=True, angle_type="", hard_anchor=True, repeat_num=3, num_semcls=4,
             num_angle_bin=1, point_cls_loss_weight=0.05, pos_for_key=False)  # fmt: skip
SIZES = [[0.5, 0.6, 0.7], [1.5, 1.2, 0.8], [0.3, 0.9, 2.0]]
OPTIONS = {
    "keys": dict(pos_for_key=True, q_content="random_add", rpe_quant="bilinear_3_7", log_scale=64, repeat_num=0),
    "classes": dict(is_bilable=False, q_content="zero", hard_anchor=False, num_semcls=3, mean_size=SIZES),
    "turned": dict(num_angle_bin=5, angle_type="object_coords", q_content="sample", dec_nlayers=4, nhead=2),
    "world": dict(num_angle_bin=4, angle_type="world_coords", nhead=1, repeat_num=1, point_cls_loss_weight=0.2),
    "one class": dict(num_semcls=1, nhead=4, hard_anchor_size=0.7),
    "all points": dict(nqueries=40, repeat_num=5),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_vdetr(name):
    a = PLAIN | OPTIONS[name]
    weights = {"giou": 1.5, "sem_cls": 2.0, "angle_cls": 0.3, "angle_reg": 0.7, "center": 1.2, "size": 0.4}
    arch = dict(points=26, batch=2, boxes=[4, 2], loss_weights=weights,
                matcher={"giou": 1.7, "cls": 2.5, "center": 0.8, "size": 0.6, "objectness": 0})  # fmt: skip
    state = boxes.vdetr_shapes(a, a["dim"])
    about = dict(system="vdetr", seed=14, arch=arch, variants={"x": {**a, "state": state}}, inputs={},
                 tolerance="abs 5e-5 + 5e-5*|value|")  # fmt: skip
    r.judge(about, boxes.vdetr)
