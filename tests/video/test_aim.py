"""AIM inside a block, written out in float64: time, space, and the joint adapter with its scale."""

import pytest
import torch
import torch.nn.functional as F

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from video.aim import aim
from xmodal.encoders.sites import placed
from xmodal.structures import Grid

CLIPS, FRAMES = 2, 3


def tower(make=vit, **options):
    encoder = build(make)
    aim(encoder, **(dict(num_frames=FRAMES, hidden=4) | options))
    refill(encoder.double(), only=lambda p: p.requires_grad)
    return encoder.eval()


def through(adapter, x):
    return F.gelu(x @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias


def over_time(block, x):
    """A(n1 x) over the frames of every token: sequences of T tokens, the block's own weights."""
    u = plain.norm(x, block.norm1).view(CLIPS, FRAMES, -1, 24)
    q, k, v = (u @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1)
    out = torch.zeros_like(u)
    for n in range(u.shape[2]):
        y = plain.attention(q[:, :, n], k[:, :, n], v[:, :, n], block.attn.num_heads)
        out[:, :, n] = y @ block.attn.proj.weight.T + block.attn.proj.bias
    return out.flatten(0, 1)


@pytest.mark.parametrize("scale", [None, 0.5, 1.0, 3.0])
def test_a_block_is_time_then_space_then_the_scaled_joint_adapter(scale):
    encoder = tower(**({} if scale is None else dict(scale=scale)))
    block, x = encoder.blocks[1], torch.randn(CLIPS * FRAMES, 5, 24, dtype=torch.double)
    time, space, joint = block.pre_attn["aim"], block.attn.edits["aim"], block.mlp.edits["aim"]
    factor = 0.5 if scale is None else scale
    want = plain.run(
        block,
        x + through(time.adapter, over_time(block, x)),
        after_attn=lambda y, u: y + through(space, y),
        after_mlp=lambda y, u: y + factor * through(joint, u),
    )
    torch.testing.assert_close(block(x, Grid(FRAMES, 2, 2)), want)


def test_attention_over_time_norms_queries_and_keys_as_the_block_does():
    encoder = tower(lambda: vit(qk_norm=True))
    block, x = encoder.blocks[0], torch.randn(CLIPS * FRAMES, 5, 24, dtype=torch.double)
    got = block.pre_attn["aim"](x, Grid(FRAMES, 2, 2))
    block.attn.edits.clear()  # the adapter behind the attention over space is no part of that over time
    sequences = x.view(CLIPS, FRAMES, 5, 24).transpose(1, 2).reshape(-1, FRAMES, 24)
    y = block.attn(plain.norm(sequences, block.norm1))  # the attention itself is tested with the block
    y = y.view(CLIPS, 5, FRAMES, 24).transpose(1, 2).reshape(-1, 5, 24)
    torch.testing.assert_close(got, x + through(block.pre_attn["aim"].adapter, y))


def test_every_frame_of_every_clip_gets_its_own_position():
    encoder = tower()
    positions = encoder.embedded["aim"]
    assert positions.embedding.shape == (1, FRAMES, 24)
    x = torch.randn(CLIPS * FRAMES, 5, 24, dtype=torch.double)
    moved = (positions(x, Grid(FRAMES, 2, 2)) - x).view(CLIPS, FRAMES, 5, 24)
    for clip in range(CLIPS):
        for frame in range(FRAMES):
            torch.testing.assert_close(moved[clip, frame], positions.embedding[0, frame].expand(5, -1))
    with pytest.raises(ValueError, match="3 frames and got 2"):
        positions(x, Grid(2, 2, 2))


def test_the_paper_takes_a_quarter_of_the_width_and_its_counts():
    encoder = tower(hidden=None)
    adapters = [m for _, m in placed(encoder.blocks)]
    assert {getattr(m, "adapter", m).down.out_features for m in adapters} == {6}
    with torch.device("meta"):
        large = vit(image_size=32, patch_size=16, dim=768, depth=12, num_heads=12)
        large.requires_grad_(False)
        aim(large, num_frames=8)
    assert sum(p.numel() for p in large.parameters() if p.requires_grad) == 10_651_392 + 6_144 + 1_536
    assert aim(build(vit), 2)[0].embedding.abs().max() == 0


def test_one_frame_leaves_the_parts_in_time_out():
    encoder = tower(num_frames=1, blocks=2)
    assert [name for name, _ in placed(encoder)] == [
        f"blocks.{i}.{site}.edits.aim" for i in (1, 2) for site in ("attn", "mlp")
    ]


def test_a_layer_scale_does_not_act_on_the_adapter_beside_the_mlp():
    encoder = vit(init_values=0.1)
    aim(encoder, num_frames=1, hidden=4, scale=0.7, drop_path=0.0)
    block = refill(encoder).double().eval().blocks[1]
    x, grid = torch.randn(2, 5, 24, dtype=torch.double), Grid(1, 2, 2)
    found, adapter = block(x, grid), block.mlp.edits.pop("aim")
    u = block.norm2(x + block.ls1(block.attn(block.norm1(x), grid)))
    torch.testing.assert_close(found - block(x, grid), 0.7 * adapter.up(F.gelu(adapter.down(u))))


def test_drop_path_drops_the_change_of_a_whole_clip():
    encoder = tower(drop_path=0.5).train()
    block, x = encoder.blocks[-1], torch.randn(40 * FRAMES, 5, 24, dtype=torch.double)
    grid = Grid(FRAMES, 2, 2)
    for module, given in ((block.pre_attn["aim"], (x, grid)), (block.mlp.edits["aim"], (x, x, grid))):
        whole = (module.eval()(*given) - x).unflatten(0, (-1, FRAMES)).flatten(1)
        kept = (module.train()(*given) - x).unflatten(0, (-1, FRAMES)).flatten(1) / whole  # (clips, T*N*D)
        assert 8 < (kept[:, 0] > 1).sum() < 32
        torch.testing.assert_close(kept, (kept[:, :1] > 1).double().mul(2).expand_as(kept), rtol=1e-6, atol=1e-6)
