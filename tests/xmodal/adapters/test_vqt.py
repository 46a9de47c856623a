"""VQT's ways to combine its queries, written out in float64."""

import json

import pytest
import torch

from tests.xmodal.adapters import plain
from tests.xmodal.adapters.towers import build, refill, vit
from xmodal.encoders.taps import Taps
from xmodal.vqt import VisualQueries, most_used

QUERIES, DEPTH, DIM = 3, 3, 24
WIDTHS = {"concat": DIM * (1 + DEPTH * QUERIES), "mean": DIM * (1 + DEPTH), "sum": DIM * (1 + DEPTH)}


def scaled():
    return vit(init_values=1.0)


def reader_of(encoder, **options):
    reader = VisualQueries(encoder, QUERIES, **options).double().eval()
    return refill(reader, 0.7)


def feature(encoder, reader, images, frames=1):
    tokens, grid = encoder.embed(images, num_frames=frames)
    taps = Taps(*reader.taps, layers=reader.layers)
    return reader(encoder.forward_blocks(tokens, grid, read=reader.reads, taps=taps), grid, encoder, taps)


def written_out(encoder, reader, images, combine, normalize):
    """Queries in front of every block's tokens, as queries only; each group over its L2 norm."""
    x, _ = encoder.embed(images)
    groups = []
    for i, block in enumerate(encoder.blocks):
        scales = (1, 1) if not hasattr(block.ls1, "gamma") else (block.ls1.gamma, block.ls2.gamma)
        # with all tokens as keys, among them the queries masked away: run the tokens first, then one row at a time
        u = plain.norm(x, block.norm1)
        _, k, v = (u @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1)
        q = reader.queries[i].expand(len(x), -1, -1)
        own = (plain.norm(q, block.norm1) @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, -1)[0]
        y = plain.attention(own, k, v, block.attn.num_heads)
        q = q + scales[0] * (y @ block.attn.proj.weight.T + block.attn.proj.bias)
        hidden = torch.nn.functional.gelu(plain.norm(q, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        q = q + scales[1] * (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
        if combine == "concat":
            groups.append(torch.cat(list(q.unbind(1)), -1))
        elif combine == "mean":
            groups.append(sum(q.unbind(1)) / QUERIES)
        else:
            groups.append(sum(reader.coefficients[i, t] * q[:, t] for t in range(QUERIES)))
        x = plain.run(block, x, scales=scales)
    groups = [plain.norm(x, encoder.norm)[:, 0], *groups]
    return torch.cat([g / g.square().sum(-1, keepdim=True).sqrt() if normalize else g for g in groups], -1)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("combine", WIDTHS)
@pytest.mark.parametrize("make", [vit, scaled])
def test_every_combination_equals_its_formula_and_has_its_width(make, combine, normalize):
    encoder = build(make).double()
    reader = reader_of(encoder, combine=combine, normalize=normalize)
    images = torch.randn(2, 3, 16, 16, dtype=torch.double)
    got = feature(encoder, reader, images)
    assert got.shape == (2, WIDTHS[combine]) == (2, reader.out_dim)
    torch.testing.assert_close(got, written_out(encoder, reader, images, combine, normalize))


@pytest.mark.parametrize("combine", WIDTHS)
def test_the_options_have_the_weights_and_the_default_of_the_paper(combine):
    reader = VisualQueries(build(vit), QUERIES, combine=combine)
    extra = DEPTH * QUERIES if combine == "sum" else 0
    assert sum(p.numel() for p in reader.parameters()) == DEPTH * QUERIES * DIM + extra
    assert reader.coefficients is None if combine != "sum" else torch.equal(reader.coefficients, torch.ones(3, 3))
    assert VisualQueries(build(vit)).combine == "concat"
    assert VisualQueries(build(vit)).normalize


def test_queries_start_uniform_in_the_bound_of_a_patch_projection():
    torch.manual_seed(0)
    queries = VisualQueries(vit(patch_size=8, dim=48), 20).queries
    bound = (6 / (3 * 8 * 8 + 48)) ** 0.5
    assert 0.99 * bound < queries.max() <= bound
    assert -bound <= queries.min() < -0.99 * bound


def test_a_clip_gives_the_mean_over_its_frames():
    encoder = build(vit).double()
    reader = reader_of(encoder, combine="mean")
    clips = torch.randn(2, 3, 3, 16, 16, dtype=torch.double)
    alone = torch.stack([feature(encoder, reader, clips[:, t]) for t in range(3)])
    torch.testing.assert_close(feature(encoder, reader, clips.flatten(0, 1), frames=3), sum(alone) / 3)


def test_dropout_acts_on_the_queries_in_training_only():
    encoder, images = build(vit).double(), torch.randn(2, 3, 16, 16, dtype=torch.double)
    reader = reader_of(encoder, dropout=0.5)
    assert reader.dropout.p == 0.5
    before = feature(encoder, reader, images)
    assert not torch.allclose(feature(encoder, reader.train(), images), before)
    torch.testing.assert_close(feature(encoder, reader.eval(), images), before)
    reader.dropout = plain.Square()
    squared = feature(encoder, reader, images)
    reader.dropout = torch.nn.Identity()
    reader.queries.data.square_()
    torch.testing.assert_close(squared, feature(encoder, reader, images))


def test_kept_features_come_from_a_list_or_a_file_in_the_order_given(tmp_path):
    encoder, images = build(vit).double(), torch.randn(2, 3, 16, 16, dtype=torch.double)
    whole = reader_of(encoder, combine="sum")
    (tmp_path / "keep.json").write_text(json.dumps([90, 3, 24]))
    for keep in ([90, 3, 24], str(tmp_path / "keep.json")):
        part = reader_of(encoder, combine="sum", keep=keep)
        part.load_state_dict({**whole.state_dict(), "keep": part.keep})
        assert part.out_dim == 3
        torch.testing.assert_close(feature(encoder, part, images), feature(encoder, whole, images)[:, [90, 3, 24]])
    for keep in ([], [0, 96], [-1]):
        with pytest.raises(ValueError, match="0 to 95"):
            VisualQueries(encoder, QUERIES, combine="sum", keep=keep)


def test_the_most_used_features_are_those_of_the_longest_columns_in_order():
    weight = torch.tensor([[0.0, 3.0, 0.1, 2.0, 1.0], [2.5, 0.0, 0.1, 2.0, 1.0]])  # lengths 2.5, 3, .14, 2.83, 1.41
    assert most_used(weight, 0.6).tolist() == [0, 1, 3]
    assert most_used(weight, 0.45).tolist() == [1, 3]
    assert most_used(weight, 0.01).tolist() == [1]
    assert most_used(weight, 1).tolist() == [0, 1, 2, 3, 4]
    for share in (0, 1.01):
        with pytest.raises(ValueError, match="fraction"):
            most_used(weight, share)
