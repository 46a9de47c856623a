"""3DETR's decoder and losses against formulas in float64, at sizes and with options that no shipped case has."""

from pathlib import Path

import pytest

from tests.parity import _reference as r
from tests.parity import _reference_detr as detr
from tests.parity.core import Case

PLAIN = dict(enc_dim=14, dec_dim=12, dec_ffn_dim=20, dec_nhead=3, dec_nlayers=2, nqueries=6, num_semcls=3,
             num_angle_bin=1, masked_encoder_projection=False, mlp_dropout=0.3, matcher_cls_cost=1.0,
             matcher_giou_cost=2.0, matcher_center_cost=0.0, matcher_objectness_cost=0.0, loss_giou_weight=1.0,
             loss_sem_cls_weight=1.0, loss_no_object_weight=0.25, loss_angle_cls_weight=0.1,
             loss_angle_reg_weight=0.5, loss_center_weight=5.0, loss_size_weight=1.0)  # fmt: skip
SUN = dict(matcher_giou_cost=3.0, matcher_center_cost=5.0, matcher_objectness_cost=5.0, loss_no_object_weight=0.1)
OPTIONS = {
    "masked": (dict(masked_encoder_projection=True, dec_nhead=1, dec_nlayers=1), [3, 1]),
    "sun": (dict(SUN, num_angle_bin=12, dec_nhead=4, dec_nlayers=3), [4, 2]),
    "half turns": (dict(SUN, num_angle_bin=5, angles=(-0.7, 0.7), loss_giou_weight=0.8), [3, 5]),
    "negative yaw": (dict(num_angle_bin=4, angles=(-3.1, -0.1), matcher_center_cost=1.5), [2, 3]),
    "one class, one query": (dict(num_semcls=1, nqueries=1, matcher_cls_cost=0.0), [1, 1]),
    "more boxes than queries": (dict(nqueries=3, dec_ffn_dim=7, matcher_objectness_cost=2.0), [5, 2]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_detr(name):
    options, counts = OPTIONS[name]
    a = PLAIN | options
    inputs = {"enc_xyz": [2, 19, 3], "enc_features": [19, 2, a["enc_dim"]], "n_present": counts}
    about = dict(system="3DETR decoder, box heads", seed=81, arch=a, state=detr.detr_shapes(a), inputs=inputs,
                 outputs={}, tolerance="abs 5e-5 + 5e-5*|value|")  # fmt: skip
    r.judge(about, detr.detr)


COSTS = dict(matcher_cls_cost=40.0, matcher_giou_cost=3.0, matcher_center_cost=5.0, matcher_objectness_cost=60.0)


@pytest.mark.parametrize(("seed", "parts"), [(82, ("cls", "giou", "center")), (93, ("cls", "giou", "objectness"))])
def test_costs_decide_the_assignment(seed, parts):
    a = PLAIN | COSTS | dict(nqueries=14, dec_nlayers=1, dec_nhead=2)
    inputs = {"enc_xyz": [2, 30, 3], "enc_features": [30, 2, a["enc_dim"]], "n_present": [9, 8]}
    about = dict(system="3DETR decoder, box heads", seed=seed, arch=a, state=detr.detr_shapes(a), inputs=inputs,
                 outputs={}, tolerance="abs 5e-5 + 5e-5*|value|")  # fmt: skip
    r.judge(about, detr.detr)
    assigned = lambda arch: detr.detr(Case(Path("x.json"), about | {"arch": arch}, {}))[0]["assignment"]  # noqa: E731
    for key in (f"matcher_{part}_cost" for part in parts):  # another weight, another assignment: each one is judged
        assert (assigned(a | {key: a[key] / 3}) != assigned(a)).any()
