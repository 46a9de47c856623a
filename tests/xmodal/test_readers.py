"""What a reader keeps of a frozen tower, and that it reads the same from what was kept."""

import pytest
import torch

from tests.xmodal.adapters.towers import build, refill, vit
from video.attentive_probe import AttentiveProbe
from video.readers import TimeMeanReader
from xmodal.encoders.taps import Taps
from xmodal.readers import PooledReader, Reader
from xmodal.vqt import VisualQueries

READERS = {
    "pooled": PooledReader,
    "time_mean": TimeMeanReader,
    "attentive_probe": lambda tower: AttentiveProbe(tower, 1, per_frame=True, num_frames=3),
    "vqt": lambda tower: VisualQueries(tower, 2, "sum"),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_kept_is_enough(name):
    tower = build(vit)
    reader = refill(READERS[name](tower)).eval()
    tokens, grid = tower.embed(torch.randn(2 * 3, 3, 16, 16), num_frames=3)
    taps = Taps(*reader.taps, layers=reader.layers)
    tokens = tower.forward_blocks(tokens, grid, read=reader.reads, taps=taps)
    want = reader(tokens, grid, tower, taps)
    kept = reader.frozen(tokens, grid, tower, taps)
    assert all(len(value) == 6 for value in kept.values())
    wanted = {"tokens"} | {f"{tap}.{i}" for tap in reader.taps for i in reader.layers}
    assert kept.keys() == wanted
    assert torch.equal(reader.from_frozen(kept, grid, tower), want)
    assert want.shape == (2, reader.out_dim)


class LastTap(Reader):
    """Reads the output of one block and no tokens."""

    reads, taps, layers, out_dim = "taps", ("post", "attn.k"), (0, 2), 24

    def forward(self, tokens, grid, encoder, taps):
        assert tokens is None or self.training
        return taps["post", 2][:, 0] - taps["post", 0][:, 1] + taps["attn.k", 0].sum((1, 2, 3))[:, None]


def test_a_reader_of_taps_alone_keeps_no_tokens():
    tower, reader = build(vit), LastTap()
    tokens, grid = tower.embed(torch.randn(2, 3, 16, 16))
    taps = Taps(*reader.taps, layers=reader.layers)
    tokens = tower.forward_blocks(tokens, grid, taps=taps)
    want = reader.train()(tokens, grid, tower, taps)
    kept = reader.eval().frozen(tokens, grid, tower, taps)
    assert sorted(kept) == ["attn.k.0", "attn.k.2", "post.0", "post.2"]
    assert torch.equal(reader.from_frozen(kept, grid, tower), want)
