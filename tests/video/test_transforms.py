"""Transforms: one draw for a whole clip, exact positions, values that stay true."""

import random

import numpy as np
import pytest
import torch

from video.augment import RandAugment
from video.transforms import (
    SSV2_FLIP_PAIRS,
    HorizontalFlip,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    ShortSideJitter,
    TestCrops,
    crop_offsets,
    resize,
    short_side_size,
)

RNG = np.random.default_rng


def still(frames=4, height=36, width=50):
    """A clip of equal frames: whatever is drawn once must leave them equal."""
    image = torch.from_numpy(RNG(0).integers(0, 256, (1, 3, height, width), np.uint8))
    return image.repeat(frames, 1, 1, 1)


ALL = [
    RandAugment(),
    RandAugment("rand-m9-n2-mstd0.5"),
    ShortSideJitter(24, 30),
    RandomCrop(24),
    RandomCrop(24, padding=4),
    RandomResizedCrop(24),
    HorizontalFlip(),
    RandomErasing(1.0, mode="mean"),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_frames_of_a_clip_stay_together_and_draws_are_seeded(transform):
    clip, before = still(), still()
    changed = 0
    for seed in range(12):
        state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        out, label = transform(clip, 5, RNG(seed))
        assert (random.getstate(), np.random.get_state()[1].tolist()) == state[:2]
        assert torch.equal(torch.get_rng_state(), state[2])
        assert (label, out.dtype) == (5, torch.uint8)
        assert (out == out[:1]).all()
        assert torch.equal(out, transform(clip, 5, RNG(seed))[0])
        changed += out.shape != clip.shape or not torch.equal(out, clip)
    assert changed > 0
    assert torch.equal(clip, before), "the input was edited in place"


def test_rand_augment_draws_what_its_string_says():
    transform = RandAugment("rand-m7-n4-mstd0.5-inc1")
    names = {op.name for op in transform.policy.ops}
    assert len(names) == 15
    assert {"PosterizeIncreasing", "ShearX", "TranslateYRel", "SolarizeAdd", "Equalize"} <= names
    counts = [len(transform.draw(RNG(seed))) for seed in range(400)]
    assert max(counts) == 4
    assert 1.85 < np.mean(counts) < 2.15
    drawn = {name for seed in range(400) for name, _ in transform.draw(RNG(seed))}
    assert drawn == names


def test_rand_augment_signs_go_both_ways():
    transform, clip = RandAugment("rand-m9-n1-p1"), still(1, 32, 32)
    signs = set()
    for seed in range(200):
        for name, operation in transform.draw(RNG(seed)):
            if name == "TranslateXRel":
                cells = operation.__closure__
                signs |= {np.sign(c.cell_contents[0]) for c in cells if isinstance(c.cell_contents, tuple)}
    assert signs == {-1.0, 1.0}
    assert transform(clip, 0, RNG(0))[0].shape == clip.shape


@pytest.mark.parametrize("config", ["rand-inc", "randm7", "rand-m7-n4-mst0.5", "augmix-m3", ""])
def test_rand_augment_refuses_misspelt_strings(config):
    with pytest.raises(ValueError, match="RandAugment string"):
        RandAugment(config)


def test_jitter_and_crop_reach_every_size_and_position():
    sizes = {min(ShortSideJitter(24, 27)(still(1), 0, RNG(seed))[0].shape[-2:]) for seed in range(80)}
    assert sizes == {24, 25, 26, 27}
    ramp = torch.arange(30, dtype=torch.uint8).expand(1, 3, 24, 30)
    assert {int(RandomCrop(24)(ramp, 0, RNG(seed))[0][0, 0, 0, 0]) for seed in range(200)} == set(range(7))
    with pytest.raises(ValueError, match="short_side_jitter"):
        RandomCrop(40)(still(), 0, RNG(0))


def test_boxes_have_the_area_and_shape_asked():
    transform = RandomResizedCrop(24)
    boxes = np.array([transform.box(240, 320, RNG(seed)) for seed in range(500)])
    top, left, h, w = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= 240).all()
    assert (left + w <= 320).all()
    share, ratio = h * w / (240 * 320), w / h
    assert share.min() < 0.13
    assert share.max() > 0.85
    assert ((ratio > 0.73) & (ratio < 1.37)).all()
    assert RandomResizedCrop(24, area=(1, 1)).box(20, 100, RNG(0)) == (0, 36, 20, 27)  # falls back to the centre


def test_flip_swaps_labels_in_pairs():
    flip = HorizontalFlip(1.0, SSV2_FLIP_PAIRS)
    clip = still()
    out, _ = flip(clip, 86, RNG(0))
    assert torch.equal(out, clip.flip(-1))
    assert [flip(clip, k, RNG(0))[1] for k in (86, 87, 93, 94, 166, 167, 5)] == [87, 86, 94, 93, 167, 166, 5]
    assert HorizontalFlip(0.0, SSV2_FLIP_PAIRS)(clip, 86, RNG(0))[1] == 86
    flipped = sum(HorizontalFlip(0.5)(clip, 0, RNG(seed))[0] is not clip for seed in range(200))
    assert 70 < flipped < 130
    for wrong in ([(1, 2), (2, 3)], [(4, 4)]):
        with pytest.raises(ValueError, match="pairs"):
            HorizontalFlip(0.5, wrong)


def test_erasing_covers_one_box():
    clip = still(3)
    out, _ = RandomErasing(1.0, mode="mean")(clip, 0, RNG(1))
    rows, columns = torch.nonzero((out != clip).any(0).any(0), as_tuple=True)
    box = out[..., rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (box == torch.tensor([123, 117, 104], dtype=torch.uint8).view(3, 1, 1)).float().mean() > 0.99
    noisy, _ = RandomErasing(1.0)(clip, 0, RNG(1))
    assert not torch.equal(noisy[0], noisy[1])


def test_sizes_and_offsets_of_the_evaluation():
    assert short_side_size(36, 50, 24) == (24, 33)
    assert short_side_size(50, 36, 24) == (33, 24)
    assert short_side_size(240, 240, 224) == (224, 224)
    assert crop_offsets(33, 24, 3) == [0, 4, 9]
    assert crop_offsets(33, 24, 1) == [4]
    with pytest.raises(ValueError, match=r"1 .* or 3"):
        TestCrops(24, 2)


@pytest.mark.parametrize("upright", [False, True])
def test_views_are_spatial_first_then_temporal(upright):
    frames = torch.zeros(6, 3, 24, 48)
    frames[:, 0] = torch.arange(48.0)
    frames[:, 1] = torch.arange(6.0)[:, None, None]
    frames = frames.transpose(2, 3) if upright else frames
    views = np.array([[0, 2], [3, 5]])
    clips = TestCrops(24, 3)(frames, views)
    assert clips.shape == (6, 2, 3, 24, 24)
    assert clips[:, 0, 0, 0, 0].tolist() == [0, 0, 12, 12, 24, 24]
    assert clips[:, :, 1, 0, 0].tolist() == [[0, 2], [3, 5]] * 3


def test_evaluation_is_neither_rounded_nor_clamped():
    frames = torch.zeros(1, 3, 12, 16, dtype=torch.uint8)
    frames[..., 8:] = 255
    clips = TestCrops(24, 1, "bicubic")(frames, np.array([[0]]))
    assert clips.dtype == torch.float32
    assert clips.min() < -1
    assert clips.max() > 256
    assert (clips != clips.round()).any()
    assert TestCrops(24, 1, "bilinear")(frames, np.array([[0]])).min() >= 0
    with pytest.raises(ValueError, match="bicubic"):
        resize(frames, (24, 24), "bicubc")
