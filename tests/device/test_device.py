"""Steps of configs on a pretended GPU: nothing is left on the host, and training steps do not wait for the device."""

import pytest
import torch

from tests.device.runs import batch_for, built, on_cuda, training_step
from tests.test_configs import CONFIGS, name

FEW = (
    "st-adapter_tiny-clip_8u_actions8",
    "evl_tiny-clip_8u_actions8",
    "lora_tiny-clip_48_digits",
    "epcl_tiny-clip_512_objects",
)
PIXELS = [p for p in CONFIGS if p.parent.name in ("video", "image") and "segments" not in p.stem]
QUICK = [pytest.param(p, id=name(p)) for p in CONFIGS if p.stem in FEW]
LONG = [pytest.param(p, id=name(p), marks=pytest.mark.slow) for p in PIXELS if p.stem not in FEW]


@pytest.mark.parametrize("path", QUICK + LONG)
def test_a_config_stays_on_the_device(path):
    cfg, model, values = built(path)
    batch = batch_for(cfg, model)
    on_cuda(model, batch, values)
    cfg, model, values = built(path)
    step = training_step(cfg, model, batch, values)
    assert sum(step.waits.values()) == 1, step.waits  # the check that loss and gradients are finite
    assert not step.uploads


def test_a_tensor_left_on_the_host_fails():
    cfg, model, values = built(QUICK[0].values[0])
    part = model.encoder.norm
    part.register_forward_hook(lambda module, args, y: y + torch.ones(y.shape[-1]))
    with pytest.raises(RuntimeError, match="mixes devices"):
        on_cuda(model, batch_for(cfg, model), values, (None,))
