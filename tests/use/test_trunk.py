"""Tasks on one encoder: the same answers as each model alone, and the frozen blocks run once."""

import pytest
import torch
from torch import nn

from xmodal.encoders.vit import VisionTransformer
from xmodal.model import TransferModel
from xmodal.use.trunk import SharedTrunk, boundary_of, share_weights

METHODS = {
    "probe": dict(reader=dict(type="time_mean")),
    "evl": dict(reader=dict(type="evl", num_frames=4, num_layers=2)),
    "attention": dict(reader=dict(type="attentive_probe", depth=1, per_frame=True, num_frames=4)),
    "lora at the top": dict(reader=dict(type="time_mean"), adapters=[dict(type="lora", rank=2, blocks=2)]),
    "lora everywhere": dict(reader=dict(type="time_mean"), adapters=[dict(type="lora", rank=2)]),
    "prompts": dict(reader=dict(type="time_mean"), adapters=[dict(type="vpt", num_tokens=2)]),
    "finetune": dict(reader=dict(type="time_mean"), freeze_encoder=False),
}


def make(name):
    torch.manual_seed(0)
    tower = VisionTransformer(image_size=16, patch_size=8, dim=24, depth=4, num_heads=3)
    tower.name = "small"
    model = TransferModel(encoder=tower, head=dict(type="classification", num_classes=5), **METHODS[name])
    torch.manual_seed(len(name))
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture
def batch():
    return {"clips": torch.rand(3, 2, 4, 3, 16, 16) * 255, "sample_id": ["a", "b", "c"]}


def test_boundaries():
    found = {name: boundary_of(make(name)) for name in METHODS}
    assert found == {"probe": 4, "evl": 4, "attention": 4, "lora at the top": 2, "lora everywhere": 0, "prompts": None,
                     "finetune": None}  # fmt: skip


def test_shared_answers_are_each_models_own(batch):
    models = [make(name) for name in METHODS]
    with torch.no_grad():
        alone = [torch.stack([row["scores"] for row in model.test_step(dict(batch))]) for model in models]
        share_weights(models)
        trunk = SharedTrunk(models)
        for wanted in (range(7), [1], [3, 0], [5, 6, 2]):
            found = trunk.scores(dict(batch), list(wanted))
            assert sorted(found) == sorted(wanted)
            for i in wanted:
                torch.testing.assert_close(found[i], alone[i], atol=1e-5, rtol=1e-4)


def test_the_frozen_blocks_run_once(batch):
    models = [make(name) for name in ("probe", "evl", "attention", "lora at the top")]
    share_weights(models)
    runs = []
    for number, model in enumerate(models):
        for layer, block in enumerate(model.encoder.blocks):
            block.register_forward_hook(lambda *_, at=(number, layer): runs.append(at))
    with torch.no_grad():
        SharedTrunk(models).scores(dict(batch), [0, 1, 2, 3])
    layers = [layer for _, layer in runs]
    assert {k: layers.count(k) for k in range(4)} == {0: 1, 1: 1, 2: 2, 3: 2}  # the top two once more, with LoRA


def test_frozen_weights_are_held_once():
    models = [make(name) for name in ("probe", "evl", "lora everywhere", "finetune")]
    frozen = sum(v.numel() * v.element_size() for v in models[0].encoder.state_dict().values())
    places = lambda: {p.data_ptr() for m in models for p in m.encoder.parameters()}  # noqa: E731
    before = len(places())
    assert share_weights(models) == 2 * frozen  # of EVL and LoRA; what is fine-tuned is its own
    assert len(places()) == before - 2 * len(list(models[0].encoder.parameters()))
    assert models[0].encoder.blocks[0].mlp.fc1.weight is models[1].encoder.blocks[0].mlp.fc1.weight
    other = make("probe")
    other._fingerprint = ("small", "another hash")
    assert share_weights([models[0], other]) == 0
