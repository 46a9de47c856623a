"""Inflated encoders: a static film is the image, time matters otherwise, and everything trains."""

import pytest
import torch

from xmodal.encoders.inflate import inflate
from xmodal.encoders.swin import SwinEncoder
from xmodal.encoders.tiny import tiny_clip_encoder
from xmodal.model import TransferModel


def swin():
    torch.manual_seed(0)
    tower = SwinEncoder(32, 4, 16, (2, 2), (2, 4), 4, out_dim=12)
    for block in tower.blocks:
        torch.nn.init.normal_(block.attn.relative_position_bias_table, std=1.0)
    return tower.eval()


def feature(encoder, clips):
    frames = clips.shape[1]
    tokens, grid = encoder.embed(clips.flatten(0, 1), num_frames=frames)
    out = encoder.pool(encoder.forward_tokens(tokens, grid), grid)
    return out.unflatten(0, (-1, grid.t)).mean(1)


OPTIONS = [
    dict(tubelet=1),
    dict(tubelet=2),
    dict(tubelet=2, init="centre"),
    dict(tubelet=1, temporal_window=4),
    dict(tubelet=2, temporal_window=2, attention="space"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("make", [tiny_clip_encoder, swin])
def test_a_static_film_is_the_image(make, options):
    encoder = make().eval()
    inflated = inflate(encoder, num_frames=8, **options).eval()
    image = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        wanted = encoder(image)
        assert torch.allclose(feature(inflated, image[:, None].expand(-1, 8, -1, -1, -1)), wanted, atol=2e-5)
        assert torch.allclose(inflated(image), wanted, atol=2e-5)
        assert torch.allclose(feature(inflated, image[:, None].expand(-1, 4, -1, -1, -1)), wanted, atol=2e-5)


@pytest.mark.parametrize("make", [tiny_clip_encoder, swin])
def test_frames_see_each_other_and_time_trains(make):
    encoder = make().eval()
    inflated = inflate(encoder, num_frames=8, tubelet=2, temporal_window=2)
    clips = torch.randn(1, 8, 3, encoder.image_size, encoder.image_size)
    alone = torch.stack([encoder(clips[0])]).mean(1)
    assert not torch.allclose(feature(inflated, clips), alone, atol=1e-3)
    model = TransferModel(inflated, head=dict(type="classification", num_classes=3), freeze_encoder=False).train()
    model(mode="loss", clips=clips[:, None], label=torch.tensor([1]))["loss"].backward()
    time = [p for n, p in inflated.named_parameters() if "time_embed" in n or "bias_table" in n]
    assert time
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in time)
    back = clips.flip(1)
    with torch.no_grad():
        for p in time:
            p.normal_(std=3)
        assert not torch.allclose(feature(inflated, clips), feature(inflated, back), atol=1e-5)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="tubelets of 3"):
        inflate(tiny_clip_encoder(), num_frames=8, tubelet=3)
    with pytest.raises(ValueError, match="7 frames"):
        inflate(tiny_clip_encoder(), tubelet=2).embed(torch.zeros(7, 3, 48, 48), num_frames=7)
    with pytest.raises(ValueError, match="steps in time"):
        feature(inflate(swin(), temporal_window=4), torch.zeros(1, 6, 3, 32, 32))
    with pytest.raises(ValueError, match="average or centre"):
        inflate(swin(), init="zero")
