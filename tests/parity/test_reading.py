"""What builders read from a case: prose and numbers, and words that they refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.clip_family import heads_of
from tests.parity.core import Case, tolerance
from tests.parity.fewshot import text_factor
from tests.parity.fewshot_2025 import weight_of
from tests.parity.petl import convpass_case
from tests.parity.ptv3 import network_of
from tests.parity.test_variants import bypasses, vit
from tests.parity.vdetr import model_of
from xmodal.evaluation.feature_fits import fit_prolip
from xmodal.heads.prolip import ProLIPHead


@pytest.mark.parametrize(
    ("text", "name", "allowed"),
    [
        ("", "logits", (1e-5, 0)),
        ("", "logits_after", (1e-4, 0)),
        ("2e-5", "logits", (2e-5, 0)),
        ("abs 1e-4 (float32 noise about 1e-6); gradient norms rel 1e-3", "logits", (1e-4, 0)),
        ("gradient norms rel 2e-3; values abs 1e-6", "logits", (1e-6, 0)),
        ("abs 0.0003 + 1e-5*|value|", "logits", (3e-4, 1e-5)),
        ("abs 1e-5; after steps 1e-4", "train_losses_after", (1e-4, 0)),
    ],
)
def test_tolerances_in_prose(text, name, allowed):
    assert tolerance(Case(Path("x.json"), {"tolerance": text} if text else {}, {}), name) == pytest.approx(allowed)


def test_numbers_in_prose():
    assert weight_of({"lambda_rule": "1/shots", "shots": 4}) == 1 / 4
    assert weight_of({"lambda_rule": "1/shots^2", "shots": 4}) == 1 / 16
    assert weight_of({"lambda_rule": 0.3, "shots": 4}) == 0.3
    with pytest.raises(KeyError, match="lambda_rule"):
        weight_of({"lambda_rule": "as the paper", "shots": 4})
    assert text_factor({"how": "clip_weights = normalise(clip_centers + 1.25*text, dim=-1).T"}) == 1.25
    assert text_factor({"text_factor": 3, "how": "centers + 2*text"}) == 3
    assert heads_of({"vision_heads": "vision_width // 16", "vision_width": 48}, "vision") == 3
    assert heads_of({"text_heads": 5, "text_width": 48}, "text") == 5


@pytest.mark.parametrize("args", [{"qk_scale": 0.5}, {"pdnorm_bn": True}])
def test_networks_that_are_not_built_are_named(args):
    about = dict(arch={"args": {"in_channels": 3, **args}, "mode": "sonata", "flash": False}, state={}, seed=0)
    with pytest.raises(KeyError, match=next(iter(args))):
        network_of(Case(Path("new.json"), about, {}))


@pytest.mark.parametrize(
    "args", [{"rpe_quant": "nearest_4_10"}, {"rpe_quant": "bilinear_4_10", "share_selfattn": True}]
)
def test_decoders_that_are_not_built_are_named(args):
    with pytest.raises(KeyError, match="rpe_quant"):
        model_of(Case(Path("new.json"), dict(state={}, seed=0), {}), args)


@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_prolip_by_adam_written_out(eps):
    torch.manual_seed(0)
    weight, text, label = torch.randn(4, 6), torch.randn(3, 4), torch.tensor([0, 2, 1, 2])
    text, views = text / text.norm(dim=1, keepdim=True), torch.randn(3, 4, 6)
    head = ProLIPHead(6, ["a", "b", "c"], text, weight, None, 10.0)
    seen = fit_prolip(head, views, label, 0.02, 0.5, 4, eps)
    w, first, second, rows = weight.double(), 0.0, 0.0, []
    for step in range(4):
        w = w.detach().requires_grad_()
        z = views[[1, 2, 0, 1][step]].double() @ w.T
        ce = torch.nn.functional.cross_entropy(10 * z / z.norm(dim=1, keepdim=True) @ text.double().T, label)
        far = (w - weight).square().sum()
        rows.append((float(ce), float(far)))
        (grad,) = torch.autograd.grad(ce + 0.5 * far, w)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        rate = 0.02 * (1 + np.cos(np.pi * step / 4)) / 2
        ratio = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + eps)
        w = w.detach() - rate * ratio
    np.testing.assert_allclose(np.array(seen), np.array(rows), atol=1e-5)
    np.testing.assert_allclose(head.weight.detach(), w, atol=1e-5)


@pytest.mark.parametrize(
    ("system", "arch", "state", "words"),
    [
        ("convpass", {"vit": {"num_heads": 3}, "s": 1}, bypasses(24, 5, ["blocks.0.adapter_attn"]), ""),
        ("convpass", {"vit": {"num_heads": 3}}, bypasses(24, 5, ["blocks.0.adapter_attn"]), "s or scale"),
        ("convpass", {"s": 1}, {}, "num_heads or heads"),
    ],
)
def test_hyperparameters_that_are_missing_are_named(system, arch, state, words):
    about = dict(system=system, seed=1, arch=arch, state=vit() | state, inputs={"image": [1, 3, 12, 12]})
    case = Case(Path("x.json"), about, {})
    if not words:
        assert convpass_case(case)["logits"].shape == (1, 3)
        return
    with pytest.raises(KeyError, match=words):
        convpass_case(case)
