"""The example of CONTRIBUTING.md is a whole method: it runs, trains and is saved as it stands there."""

import re
from pathlib import Path

import torch

from tests.xmodal.test_model import tower
from xmodal.model import TransferModel
from xmodal.registry import ADAPTERS, METHODS

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def test_the_example_is_short_and_works():
    source = next(s for s in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "scale_adapter" in s)
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    scope = {"__name__": "example"}
    exec(source, scope)
    try:
        encoder = tower()
        images = torch.randn(2, 3, 16, 16)
        before = encoder(images)
        head = dict(type="classification", num_classes=3)
        model = TransferModel(encoder, head, adapters=[dict(type="scale_adapter", blocks=2)])
        torch.testing.assert_close(model.features(image=images), before)
        model(mode="loss", image=images, label=torch.tensor([0, 1]))["loss"].backward()
        trained = [n for n, p in model.named_parameters() if p.grad is not None]
        assert trained == [
            "encoder.blocks.1.pre_mlp.scale_adapter.scale",
            "encoder.blocks.2.pre_mlp.scale_adapter.scale",
            "head.fc.weight",
            "head.fc.bias",
        ]
        assert set(trained) == model.saved_keys()
    finally:
        ADAPTERS.module_dict.pop("scale_adapter", None)
        METHODS.pop("scale_adapter", None)
