"""Every family of encoders, with a reader and a head, passes `torch.export` for any batch."""

import pytest
import torch

from tests.xmodal.adapters import towers
from tests.xmodal.test_encoder_contract import FAMILIES, images_of
from video.attentive_probe import AttentiveProbe
from video.evl import EVLDecoder
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.model import TransferModel

HEAD = dict(type="classification", num_classes=3)
READERS = {
    "time mean": (dict(type=TimeMeanReader), []),
    "attention probe": (dict(type=AttentiveProbe, depth=1, per_frame=True, num_frames=2), []),
    "evl": (dict(type=EVLDecoder, num_frames=2, num_layers=2), []),
    "st-adapter": (dict(type=TimeMeanReader), [dict(type=st_adapter, bottleneck=8)]),
}
VIDEO = {
    "vit": towers.vit,
    "rotary": lambda: towers.vit(rotary=dict(kind="axial"), positions=False),
    "beit": lambda: towers.vit(relative=True, positions=False),
}
FAST = {"rows", "vit", "beit", "naflex", "coca", "resnet", "convnext", "swin v2", "inflated vit"}


def some(names, fast):
    """Names of a test, of which only a few are fast."""
    return [pytest.param(n, marks=[] if n in fast else pytest.mark.slow) for n in names]


def exported(model, inputs, changing):
    """The program of a model, for any size of the first axis of its inputs."""
    batch = torch.export.Dim("batch", min=2, max=64)
    dynamic = {key: {0: batch} if key in changing else None for key in inputs}
    return torch.export.export(model, (), inputs, dynamic_shapes={"inputs": dynamic}, strict=False).module()


class Plain(torch.nn.Module):
    """A model of named inputs, without modes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs)


def check(model, make):
    program = exported(Plain(model), make(2), make(2))
    for count in (2, 3, 5):
        inputs = make(count)
        torch.testing.assert_close(program(**inputs), model(**inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", some(FAMILIES, FAST))
@torch.no_grad()
def test_a_family_is_exported_for_any_batch(family):
    torch.manual_seed(0)
    model = TransferModel(FAMILIES[family]().eval(), HEAD).eval()
    check(model, lambda count: {"image": images_of(model.encoder, count)})


@pytest.mark.parametrize("tower", some(VIDEO, {"vit"}))
@pytest.mark.parametrize("reader", READERS)
@torch.no_grad()
def test_a_reader_of_videos_is_exported_for_any_batch(reader, tower):
    torch.manual_seed(0)
    read, adapters = READERS[reader]
    model = TransferModel(VIDEO[tower]().eval(), HEAD, reader=read, adapters=adapters).eval()
    towers.refill(model, 0.2)
    check(model, lambda count: {"clips": torch.randn(count, 1, 2, 3, 16, 16)})
