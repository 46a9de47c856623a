"""torch.compile takes every tower, reader and head as one graph, and compiles little anew when the batch changes."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests.xmodal.clips import NAMES, small_clip
from tests.xmodal.test_encoder_contract import FAMILIES, images_of
from tests.xmodal.test_model import tower
from video.attentive_probe import AttentiveProbe
from video.dist import DiST
from video.evl import EVLDecoder
from video.readers import TimeMeanReader
from video.side4video import Side4Video
from video.step_probe import StepProbe
from xmodal.efficient_probe import EfficientProbe
from xmodal.heads.classification import ClassificationHead
from xmodal.heads.cocoop import CoCoOpHead
from xmodal.heads.coop import CoOpHead
from xmodal.heads.taskres import TaskResHead
from xmodal.heads.zero_shot import ZeroShotHead
from xmodal.model import TransferModel
from xmodal.vqt import VisualQueries

QUICK = ("vit", "time mean", "classification")
BATCHES = (2, 3, 5, 8)
AT_MOST = 2  # graphs: one for the first batch, one for any


def cases(table):
    """Parameters of a table, those that take long marked so."""
    return [pytest.param(v, id=k, marks=() if k in QUICK else pytest.mark.slow) for k, v in table.items()]


def check(run, inputs_of, sizes=BATCHES):
    """Compile into one graph; equal results for every batch; few graphs."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(run, backend=counter, fullgraph=True)
    for size in sizes:
        given = inputs_of(size)
        torch.testing.assert_close(compiled(*given), run(*given), atol=1e-4, rtol=1e-4)
    assert counter.frame_count <= AT_MOST, f"{counter.frame_count} graphs for batches of {sizes}"


@pytest.mark.parametrize("make", cases(FAMILIES))
def test_the_blocks_of_every_family_are_one_graph(make):
    torch.manual_seed(0)
    encoder = make().eval().requires_grad_(False)
    check(lambda images: encoder.forward_blocks(*encoder.embed(images)), lambda n: [images_of(encoder, n)])


def model_with(reader, **options):
    torch.manual_seed(0)
    return TransferModel(tower(), dict(type=ClassificationHead, num_classes=4), reader=reader, **options)


READERS = {
    "pooled": None,
    "time mean": dict(type=TimeMeanReader),
    "evl": dict(type=EVLDecoder, num_frames=4, num_layers=2),
    "attentive probe": dict(type=AttentiveProbe, depth=1, num_heads=2),
    "step probe": dict(type=StepProbe, num_frames=4),
    "efficient probe": dict(type=EfficientProbe, num_queries=3),
    "vqt": dict(type=VisualQueries),
    "side4video": dict(type=Side4Video),
    "dist": dict(type=DiST, num_frames=4),
}


@pytest.mark.parametrize("reader", cases(READERS))
def test_a_tower_and_every_reader_are_one_graph(reader):
    model = model_with(reader).eval()
    check(lambda x: model.features(clips=x), lambda n: [torch.randn(n, 1, 4, 3, 16, 16)], BATCHES[:3])


HEADS = {
    "classification": lambda: ClassificationHead(16, 3),
    "zero-shot": lambda: ZeroShotHead(16, NAMES, small_clip()),
    "CoOp": lambda: CoOpHead(16, NAMES, small_clip(), n_ctx=2),
    "CoCoOp": lambda: CoCoOpHead(16, NAMES, small_clip(), n_ctx=2),
    "TaskRes": lambda: TaskResHead(16, NAMES, small_clip()),
}


@pytest.mark.parametrize("make", cases(HEADS))
def test_the_loss_of_every_head_is_one_graph(make):
    torch.manual_seed(0)
    head: nn.Module = make().eval()
    check(
        lambda feature, label: head.loss(feature, label)["loss"],
        lambda n: [torch.randn(n, 16), torch.arange(n) % 3],
    )


def test_a_break_in_the_graph_is_noticed():
    with pytest.raises(torch._dynamo.exc.Unsupported):
        check(lambda x: x * x.sum().item() if x.sum() > 0 else x, lambda n: [torch.randn(n)])


def test_graphs_for_every_batch_are_noticed():
    with pytest.raises(AssertionError, match="graphs for batches"):
        check(lambda x: x * (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)[x.shape[0]], lambda n: [torch.randn(n)], (2, 3, 4, 5))
