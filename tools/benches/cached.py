"""Training steps from the frozen-prefix cache against steps that run the frozen part."""

import tempfile

import numpy as np
import torch

from tools.benches import video
from tools.benches.measure import SIZES, Variant, Wanted, train_step
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.data.collate import collate
from xmodal.engine.frozen_cache import FrozenCache
from xmodal.model import TransferModel

CLAIMS = [Wanted("time", "cached, float16", "uncached", 0.1), Wanted("time", "cached, int8", "uncached", 0.1)]
WANTED = {"evl": CLAIMS, "probe": CLAIMS, "top_block": []}


class Pixels:
    """A few random clips (1, T, 3, S, S) u8."""

    def __init__(self, args):
        self.frames, self.side, self.count = args.frames, SIZES[args.size]["image_size"], args.batch

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        random = np.random.default_rng(key)
        clips = random.integers(0, 256, (1, self.frames, 3, self.side, self.side), dtype=np.uint8)
        return {"clips": torch.from_numpy(clips), "label": 0, "sample_id": str(key)}


def step(state):
    """Read a batch, preprocess it, and train one step without the optimizer."""
    model, dataset = state
    batch = collate([dataset[0, i] for i in range(len(dataset))])
    return train_step((model, model.data_preprocessor(batch, True)))


def compare(args, make):
    """The same step on pixels and from caches of both precisions; filling them is not counted."""
    pixels = Pixels(args)

    def cached(dtype):
        model = make()
        folder = tempfile.mkdtemp(prefix="xmodal-bench-")
        cache = FrozenCache(model, pixels, folder, dtype=dtype)
        megabytes = cache.megabytes() / len(pixels)
        cache.fill()
        print(f"{dtype}: {megabytes:.1f} MB a clip and view, largest relative error {cache.error:.1e}", flush=True)
        return model, cache.read()

    return [
        Variant("uncached", step, lambda: (make(), pixels)),
        Variant("cached, float16", step, lambda: cached("float16")),
        Variant("cached, int8", step, lambda: cached("int8")),
    ]


def evl(args):
    """EVL, decoder of 4 layers."""
    return compare(args, lambda: video.evl_model(args))


def probe(args):
    """A linear probe on the time-averaged class token."""
    return compare(args, lambda: video.probe(args))


def top_block(args):
    """ST-Adapter in the last two blocks: the cache keeps the tokens in front of them."""
    adapters = [dict(type=st_adapter, bottleneck=SIZES[args.size]["dim"] // 2, blocks=2)]
    return compare(
        args, lambda: TransferModel(video.encoder(args.size), video.head(), adapters, dict(type=TimeMeanReader)).train()
    )
