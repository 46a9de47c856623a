"""Image-text-label pretraining: what a batch says, windows, losses, hooks, towers that come back from a file."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xmodal.data.collate import collate
from xmodal.encoders.tiny import tiny_clip
from xmodal.losses import same_text_label
from xmodal.toys.label_pretraining import (
    ImageTextLabelModel,
    SaveTowersHook,
    WindowsFirstHook,
    multi_label,
    owners,
    patch_loss,
    window,
)
from xmodal.toys.shape_pool import Pool, ShapeThings


@pytest.fixture(scope="module")
def things():
    return ShapeThings(24, world=3, seed=1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ImageTextLabelModel(tiny_clip("random")).train()


def batch_of(model, things):
    return model.data_preprocessor(collate([things[(0, i)] for i in range(len(things))]), training=True)


def test_pictures_are_the_pools_with_another_brightness_every_epoch(things):
    pool = Pool.draw(24, 3)
    first, again, other = things[(0, 5)], things[(0, 5)], things[(1, 5)]
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], other["image"])
    assert np.abs(first["image"] - pool.images[5]).max() <= 0.15 * 255 + 12
    for key, name in (("text", "captions"), ("phrases", "phrases"), ("shape", "shape"), ("geometry", "geometry")):
        assert np.array_equal(first[key], getattr(pool, name)[5])


def test_windows_hold_their_thing_and_stay_inside():
    geometry = torch.tensor([[0.0, 0.0, 0.2, 0.0], [0.51, 0.99, 0.2, 0.0]])
    assert window(geometry, 6).tolist() == [[0, 1, 2, 6, 7, 8, 12, 13, 14], [20, 21, 22, 26, 27, 28, 32, 33, 34]]
    shape, pair = torch.tensor([[2, -1]]), torch.tensor([[[0.3, 0.3, 0.4, 0.0], [0.9, 0.9, 0.3, 0.0]]])
    owner = owners(pair, shape, 6)[0].view(6, 6)
    assert owner[1, 1] == 0  # under the first thing
    assert (owner[3:] == -1).all()  # no second thing
    assert owners(pair, torch.tensor([[2, 1]]), 6)[0].view(6, 6)[5, 5] == 1


def test_multi_label_counts_what_occurs():
    logits = torch.tensor([[9.0, -9.0, 9.0], [9.0, -9.0, 9.0]])
    assert multi_label(logits, torch.tensor([[0, 2], [2, 0]])) < 1e-3
    assert multi_label(logits, torch.tensor([[0, -1], [0, -1]])) > 2  # the third does not occur


def test_equal_texts_have_equal_labels():
    ids = torch.tensor([[1, 5, 6, 0], [1, 5, 6, 0], [1, 6, 5, 0], [0, 1, 5, 6]])
    label = same_text_label(ids)
    assert label[0] == label[1]
    assert len(set(label.tolist())) == 3
    assert (label > 0).all()
    assert torch.equal(same_text_label(ids[2:]), label[2:])  # whatever else is in the batch
    many = torch.cartesian_prod(*[torch.arange(20)] * 3)
    assert len(same_text_label(many).unique()) == len(many)


def test_patch_loss_is_small_for_the_truth(things):
    batch = collate([things[i] for i in range(4)])
    owner = owners(batch["geometry"], batch["shape"], 6)
    patch = torch.arange(36).expand_as(owner)
    out = torch.zeros(4, 36, 8 + 8 + 5)
    for b, p in (owner >= 0).nonzero().tolist():
        who = owner[b, p]
        x, y, size, angle = batch["geometry"][b, who]
        out[b, p, batch["shape"][b, who]] = out[b, p, 8 + batch["color"][b, who]] = 20
        where = torch.stack([x * 6 - (p % 6 + 0.5), y * 6 - (p // 6 + 0.5), 2 * (size / 0.3).log(), angle / 0.3])
        out[b, p, 16:20] = where
    assert patch_loss(out, owner, patch, batch, 6) < 1e-3
    assert patch_loss(out.flip(-1), owner, patch, batch, 6) > 1


@pytest.mark.parametrize("windows", [True, False])
def test_a_step_lowers_the_loss(model, things, windows):
    model.windows = windows
    batch = batch_of(model, things)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        torch.manual_seed(1)  # the same windows
        found = model(mode="loss", **batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(found["loss"].item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in model.parameters())
    wanted = 0.5 * found["contrast"] + found["labels"] + found["patches"]
    assert found["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_windows_come_first_as_a_function_of_the_step(model):
    hook = WindowsFirstHook(0.5)
    seen = []
    for step in range(4):
        hook.before_train_iter(SimpleNamespace(model=model, iter=step, max_iters=4), step)
        seen.append(model.windows)
    assert seen == [True, True, False, False]
    with pytest.raises(ValueError, match="between 0 and 1"):
        WindowsFirstHook(2)


def test_towers_come_back_from_a_file(model, tmp_path):
    SaveTowersHook().after_train(SimpleNamespace(model=model, work_dir=str(tmp_path)))
    read = tiny_clip(weights=str(tmp_path / "towers.safetensors"))
    for key, value in model.clip.state_dict().items():
        assert torch.allclose(read.state_dict()[key], value, atol=1e-3), key
    with pytest.raises(ValueError, match="no such file"):
        tiny_clip(weights=str(tmp_path / "other.safetensors"))
