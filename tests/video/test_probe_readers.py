"""Readers of frozen towers: from a cache as from the pixels, blind to order or not, segments joined in time order."""

import numpy as np
import pytest
import torch

from tests.xmodal.adapters.towers import build, vit
from video.attentive_probe import AttentiveProbe
from video.dist import DiST
from video.segments import SegmentSampling, segment_indices
from video.side4video import Side4Video
from video.step_probe import StepProbe
from xmodal.efficient_probe import EfficientProbe
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel

HEAD = dict(type=ClassificationHead, num_classes=3, init_std=1.0)
READERS = {
    "attentive": dict(type=AttentiveProbe, depth=2, layers=(0, 2)),
    "efficient": dict(type=EfficientProbe, num_queries=4),
    "step": dict(type=StepProbe, num_frames=4),
    "side4video": dict(type=Side4Video, dim=16),
    "side4video, post-norm": dict(type=Side4Video, dim=16, post_norm=True),
    "dist": dict(type=DiST, num_frames=4, alpha=2, dim=16, channels=8, pooling_layers=1, num_heads=2),
}


def model(name):
    torch.manual_seed(3)
    return TransferModel(build(vit), HEAD, reader=READERS[name]).eval()


def clips(frames=4):
    return torch.randn(2, 1, frames, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", READERS)
def test_features_from_a_cache_are_those_of_the_pixels(name):
    run, x = model(name), clips()
    kept, grid = run.frozen_part(clips=x)
    torch.testing.assert_close(run.trained_part(kept, grid), run.features(clips=x))
    assert all(len(v) % len(x) == 0 for v in kept.values())


@pytest.mark.parametrize("name", READERS)
def test_everything_of_a_reader_trains_and_nothing_of_the_tower(name):
    run = model(name).train()
    run(mode="loss", clips=clips(), label=torch.tensor([0, 1]))["loss"].backward()
    assert all(p.grad is None for p in run.encoder.parameters())
    still = [n for n, p in run.reader.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []


@pytest.mark.parametrize(("name", "blind"), [("attentive", True), ("efficient", True), ("step", False),
                                             ("side4video", False), ("dist", False)])  # fmt: skip
def test_who_knows_the_order_of_frames(name, blind):
    run, x = model(name), clips()
    same = torch.allclose(run(clips=x), run(clips=x.flip(2)), atol=1e-4)
    assert same == blind
    with torch.no_grad():
        if name == "step":
            run.reader.frame_pos.zero_()
            assert torch.allclose(run(clips=x), run(clips=x.flip(2)), atol=1e-4)


def test_segments_are_joined_and_become_one_prediction():
    torch.manual_seed(3)
    reader = dict(type=AttentiveProbe, depth=1, segments=2)
    run, x = TransferModel(build(vit), HEAD, reader=reader).eval(), torch.randn(2, 4, 2, 3, 16, 16)
    assert run(clips=x).shape == (4, 3)  # 2 videos x 2 spatial views
    joined = TransferModel(run.encoder, HEAD, reader=dict(type=AttentiveProbe, depth=1)).eval()
    joined.reader.load_state_dict(run.reader.state_dict())
    joined.head.load_state_dict(run.head.state_dict())
    torch.testing.assert_close(joined(clips=x.unflatten(1, (2, 2)).flatten(2, 3)), run(clips=x))
    assert len(run(mode="predict", clips=x)) == 2
    with pytest.raises(ValueError, match="3 clips a video do not make segments of 2"):
        run(clips=x[:, :3])


def test_too_many_frames_for_the_positions():
    with pytest.raises(ValueError, match="positions for 4 frames, and the clip has 6"):
        model("step")(clips=clips(6))
    for frames in (3, 5, 6):  # with alpha 2, three dense frames give as many sparse ones as four
        with pytest.raises(ValueError, match=f"dist was built for clips of 4 frames, and these have {frames}"):
            model("dist")(clips=clips(frames))


def test_segments_of_short_and_long_videos():
    sampling = SegmentSampling(num_frames=4, stride=2, segments=2)
    assert sampling.test(40, 2).tolist() == [[0, 2, 5, 7], [20, 22, 25, 27]]
    drawn = sampling.train(40, np.random.default_rng(0))
    assert drawn.shape == (2, 4)
    assert (drawn[0] < 20).all()
    assert (drawn[1] >= 20).all()
    for length in range(1, 30):
        for overlap in (True, False):
            rows = segment_indices(4, 2, 2, length, overlap)
            assert rows.shape == (2, 4)
            assert (rows >= 0).all()
            assert (rows < length).all()
    with pytest.raises(ValueError, match="temporal_views=2, not 1"):
        sampling.test(40, 1)
