"""Configs on a pretended GPU: nothing is left on the host, and training steps wait for the device as seldom as said."""

import pytest
import torch

from tests.device.__main__ import main
from tests.device.limits import LIMITS, family_of
from tests.device.runs import batch_for, built, on_cuda, survey_model, training_step
from tests.device.shadow import Pretended
from tests.device.survey import survey
from tests.test_configs import CONFIGS, ROOT, name
from xmodal.engine.optim import TrainedGroups

ALL = [pytest.param(p, id=name(p)) for p in CONFIGS]
GRID = ROOT / "configs/fewshot/tiny-clip_negatives16.py"


@pytest.mark.parametrize("path", ALL)
def test_a_config_stays_on_the_device(path):
    check(path, survey(path))


def check(path, found):
    for method, step in found.items():
        assert step.waits.total() <= LIMITS[family_of(path)], (method, step.waits)
        assert not step.uploads, (method, step.uploads)
    assert any(step.steps for step in found.values()) or "uni3d" in path.stem, "something trains"


def test_few_shot_methods_stay_on_the_device():
    only = ("CoOp (4 words)", "Tip-Adapter-F", "CLIP-LoRA")
    found = survey(GRID, precisions=(torch.bfloat16,), only=only)
    check(GRID, found)
    assert set(found) == set(only)
    assert all(step.steps > 1 for step in found.values())


def test_limits_are_those_of_the_families():
    families = {family_of(p) for p in CONFIGS}
    assert families == set(LIMITS), "a family without a config, or the other way around"


# The harness must notice what it is for


def digits(edit):
    """The model of a small config with a hook behind the norm of its tower, which changes tokens y (B, N, D)."""
    (path,) = (p for p in CONFIGS if p.stem == "lora_tiny-clip_48_digits")
    cfg, model, values = built(path)
    model.encoder.norm.register_forward_hook(lambda module, args, y: edit(y))
    return cfg, model, batch_for(cfg, model), values


KEPT = torch.ones(())  # stands for a tensor that a module holds without registering it
LEFT = {
    "a tensor made on the host": lambda y: y + torch.ones(y.shape[-1]),
    "a result taken to the host": lambda y: y + y.detach().cpu(),
    "a tensor that is no buffer": lambda y: y * KEPT.expand(y.shape[-1]),
    "an index table": lambda y: torch.nn.functional.embedding(torch.zeros(1, dtype=torch.int64), y[0]) + y,
}


@pytest.mark.parametrize("edit", LEFT.values(), ids=LEFT)
def test_a_tensor_left_on_the_host_fails(edit):
    _, model, batch, values = digits(edit)
    with pytest.raises(RuntimeError, match="mixes devices"):
        on_cuda(model, batch, values, (None,))


def test_a_buffer_on_the_host_fails():
    """A buffer that is made when the model already is on its device."""
    (path,) = (p for p in CONFIGS if p.stem == "lora_tiny-clip_48_digits")
    cfg, model, values = built(path)

    def late(module, args, y):
        if not hasattr(module, "mean"):
            module.register_buffer("mean", torch.zeros(y.shape[-1]))
        return y - module.mean

    model.encoder.norm.register_forward_hook(late)
    with pytest.raises(RuntimeError, match="mixes devices"):
        on_cuda(model, batch_for(cfg, model), values, (None,))


WAITS = {
    "a copy to the host and back": (lambda y: y + 0 * y.detach().cpu().to(y.device), 1, 1),
    "item": (lambda y: y * (1 + 0 * y.detach().sum().item()), 1, 0),
    "tolist": (lambda y: y * (1 + 0 * y.detach().sum((0, 1))[:2].tolist()[0]), 1, 0),
    "bool": (lambda y: y if y.detach().sum() > 0 else y + 0, 1, 0),
    "a table copied over": (lambda y: y + torch.zeros(y.shape[-1]).to(y.device), 0, 1),
    "a copy that does not block": (lambda y: y + torch.zeros(y.shape[-1]).to(y.device, non_blocking=True), 0, 0),
}


@pytest.mark.parametrize(("edit", "waits", "uploads"), WAITS.values(), ids=WAITS)
def test_waits_are_counted(edit, waits, uploads):
    cfg, model, batch, values = digits(edit)
    step = training_step(cfg, model, batch, values)
    assert (sum(step.waits.values()), sum(step.uploads.values())) == (1 + waits, uploads), (step.waits, step.uploads)


MASKS = {
    "nonzero": lambda x: x.detach().sum(2).nonzero()[:0].float().sum(),
    "a mask": lambda x: x[x.detach() > 9].sum(),
}


@pytest.mark.parametrize("edit", MASKS.values(), ids=MASKS)
def test_shapes_that_depend_on_values_are_counted(edit):
    (path,) = (p for p in CONFIGS if p.stem == "epcl_tiny-clip_512_objects")
    cfg, model, values = built(path)
    model.network.register_forward_pre_hook(lambda module, args: None)
    whole = model.network.loss
    model.network.loss = lambda **given: {**whole(**given), "extra": edit(given["coord"])}
    step = training_step(cfg, model, batch_for(cfg, model), values)
    assert sum(step.waits.values()) == 2, step.waits


def test_a_model_of_values_and_one_of_shapes_say_the_same():
    """Evaluation and loss of a cloud model: nothing but the prediction is copied to the host."""
    (path,) = (p for p in CONFIGS if p.stem == "epcl_tiny-clip_512_objects")
    assert survey_model(path, (torch.bfloat16,)).waits.total() == 1


def test_the_table_is_printed(capsys):
    main(["image/lora_tiny", "--places"])
    said = capsys.readouterr().out
    assert "| image/lora_tiny-clip_48_digits | image or video | 1 | 0 |" in said
    assert "1 x xmodal/engine/optim.py" in said


@pytest.mark.parametrize(("options", "fused"), [({}, True), ({"fused": False}, False), ({"foreach": True}, None)])
def test_optimizers_are_fused_on_cuda_unless_told_otherwise(options, fused):
    model = torch.nn.Linear(2, 2)
    wrapper = dict(optimizer=dict(type=torch.optim.AdamW, lr=0.1, **options))
    assert not TrainedGroups(wrapper)(model, say=False).optimizer.param_groups[0]["fused"]
    with Pretended("cuda:0") as device:
        optimizer = TrainedGroups(wrapper)(device.move(model), say=False).optimizer
    assert optimizer.param_groups[0]["fused"] is fused
