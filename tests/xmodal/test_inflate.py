"""Inflated encoders: a static video is the image, time matters otherwise, and everything trains."""

import pytest
import torch

from tests.xmodal.adapters.towers import refill, vit
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
    dict(tubelet=2, init="center"),
    dict(tubelet=1, temporal_window=4),
    dict(tubelet=2, temporal_window=2, attention="space"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("make", [tiny_clip_encoder, swin])
def test_a_static_video_is_the_image(make, options):
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
    with pytest.raises(ValueError, match="average or center"):
        inflate(swin(), init="zero")


@pytest.mark.parametrize("init", ["average", "center"])
def test_a_patch_over_frames_is_the_mean_of_their_patches_or_the_middle_one(init):
    encoder = tiny_clip_encoder()
    conv = inflate(encoder, num_frames=9, tubelet=3, init=init).tower.patch_embed.proj
    frames = torch.randn(2, 3, 3, 48, 48)
    single = encoder.patch_embed.proj
    patches = [torch.nn.functional.conv2d(frames[:, t], single.weight, single.bias, single.stride) for t in range(3)]
    want = patches[1] if init == "center" else sum(patches) / 3
    torch.testing.assert_close(conv(frames.flatten(0, 1)), want, atol=1e-5, rtol=1e-4)
    assert single.weight.ndim == 4  # the encoder given keeps its own


def test_frames_of_a_vit_meet_in_joint_attention_alone():
    encoder = tiny_clip_encoder().eval()
    clips = torch.randn(1, 4, 3, 48, 48)
    with torch.no_grad():
        alone = encoder(clips[0])
        space = inflate(encoder, num_frames=4, attention="space").eval()
        joint = inflate(encoder, num_frames=4).eval()
        tokens, grid = space.embed(clips[0], num_frames=4)
        torch.testing.assert_close(space.pool(space.forward_tokens(tokens, grid), grid), alone, atol=1e-5, rtol=1e-4)
        both = joint.pool(joint.forward_tokens(*joint.embed(clips[0], num_frames=4)))
    assert (both - alone).abs().max() > 1e-2


def test_positions_in_time_are_added_to_all_tokens_of_a_step_and_resized():
    inflated = inflate(tiny_clip_encoder(), num_frames=4)
    time = torch.tensor([0.0, 2.0, 4.0, 6.0])
    inflated.time_embed.data.copy_(time.view(1, 4, 1, 1))
    frames = torch.randn(2 * 4, 3, 48, 48)
    plain, _ = inflated.tower.embed(frames, 4)
    moved, grid = inflated.embed(frames, 4)
    torch.testing.assert_close(moved - plain, time.repeat(2).view(8, 1, 1).expand_as(plain), atol=1e-5, rtol=1e-5)
    assert grid.t == 4
    assert inflated.times(2).flatten(1)[0, :: inflated.dim].tolist() == [1.0, 5.0]  # the middles of two halves
    assert inflated.times(8).flatten(1)[0, :: inflated.dim].tolist() == [0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.0]
    assert inflated.times(1).unique().tolist() == [3.0]


def plain_windows(block, x, steps, shifted):
    """Attention of every token to those of its window in space and time, one query at a time."""
    (wh, ww), h, w = block.size, x.shape[1], x.shape[2]
    deep = min(block.window, steps)
    st = deep // 2 if shifted and steps > deep else 0
    sh, sw = block.shift
    clips = x.unflatten(0, (-1, steps))
    q, k, v = (p.unflatten(-1, (block.num_heads, -1)) for p in block.qkv(clips).chunk(3, -1))
    out = torch.zeros_like(clips)

    def window(position, size, shift, length):
        """Number of the window that a place belongs to, once the axis is rolled by the shift, edges apart."""
        moved = (position - shift) % length
        return moved // size, (position < shift) if shift else False

    places = [(t, a, b) for t in range(steps) for a in range(h) for b in range(w)]
    owner = {(t, a, b): (window(t, deep, st, steps), window(a, wh, sh, h), window(b, ww, sw, w)) for t, a, b in places}
    for t, a, b in places:
        near = [p for p in places if owner[p] == owner[t, a, b]]
        scores = []
        for t2, a2, b2 in near:
            rolled = [((p - s) % n) % size for p, s, n, size in ((a, sh, h, wh), (b, sw, w, ww))]
            other = [((p - s) % n) % size for p, s, n, size in ((a2, sh, h, wh), (b2, sw, w, ww))]
            row = (rolled[0] - other[0] + wh - 1) * (2 * ww - 1) + rolled[1] - other[1] + ww - 1
            step = (t - st) % steps % deep - (t2 - st) % steps % deep + block.window - 1
            product = (q[:, t, a, b] * k[:, t2, a2, b2]).sum(-1) / q.shape[-1] ** 0.5
            scores.append(product + block.bias_table[step, row])
        weight = torch.stack(scores, 1).softmax(1)  # (B, n, heads)
        values = torch.stack([v[:, t2, a2, b2] for t2, a2, b2 in near], 1)  # (B, n, heads, d)
        out[:, t, a, b] = (weight[..., None] * values).sum(1).flatten(1)
    return block.proj(out).flatten(0, 1)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("number", [0, 1])
def test_windows_in_space_and_time_equal_attention_written_out(number, steps):
    block = inflate(swin(), temporal_window=2).blocks[number].double()
    torch.nn.init.normal_(block.bias_table)
    assert block.shift == ((0, 0), (2, 2))[number]
    x = torch.randn(steps, 8, 8, 16, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(block.attend(x, steps), plain_windows(block, x, steps, bool(number)))


def test_what_the_tower_says_of_itself_stays():
    tower = SwinEncoder(32, 4, 16, (2, 2), (2, 4), 4, out_dim=12, drop_path=0.3, pixel_mean=(0.1,) * 3)
    inflated = inflate(tower)
    assert (inflated.pixel_mean, inflated.pixel_std) == ((0.1,) * 3, (0.229, 0.224, 0.225))
    rates = [getattr(block.drop_path1, "drop_prob", 0) for block in inflated.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [getattr(block.drop_path2, "drop_prob", 0) for block in inflated.blocks] == pytest.approx(rates)
    assert type(tower.blocks[0]).__name__ == "SwinBlock"  # the tower given is not changed
    vit = tiny_clip_encoder()
    assert inflate(vit).tower.blocks[0] is not vit.blocks[0]
    assert (inflate(vit).pixel_mean, inflate(vit).out_dim) == (vit.pixel_mean, vit.out_dim)


def rotary():
    tower = vit(rotary=dict(kind="axial"), positions=False, num_heads=2)
    return refill(tower, 0.2).eval()


@torch.no_grad()
def test_an_inflated_rotary_tower_keeps_the_places_of_its_patches():
    tower = rotary()
    inflated = inflate(tower, num_frames=4, tubelet=2).eval()
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(feature(inflated, image[:, None].expand(-1, 4, -1, -1, -1)), tower(image))
    exchanged = torch.cat([image[..., 8:], image[..., :8]], -1)  # the left patches and the right ones
    assert (tower(exchanged) - tower(image)).abs().max() > 1e-4
    tokens, grid = inflated.embed(torch.randn(8, 3, 16, 16), 4)
    whole = inflated.forward_blocks(tokens, grid)
    torch.testing.assert_close(inflated.forward_blocks(tokens, grid, read="prefix"), whole[:, :1])


def test_adapters_of_videos_run_on_an_inflated_tower():
    adapters = [dict(type="st_adapter", bottleneck=8)]
    model = TransferModel(
        inflate(rotary(), num_frames=4), dict(type="classification", num_classes=3), adapters, dict(type="time_mean")
    )
    clips = torch.randn(2, 1, 4, 3, 16, 16)
    model.train()(mode="loss", clips=clips, label=torch.tensor([0, 1]))["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() for p in model.encoder.parameters())
