"""Transforms: one draw for a whole clip, exact positions, values that stay true."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

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
    assert RandomResizedCrop(24, area=(1, 1)).box(20, 100, RNG(0)) == (0, 36, 20, 27)  # falls back to the center


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


def test_square_films_have_as_many_views():
    clips = TestCrops(24, 3)(torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 24, 24), np.array([[0, 1]]))
    assert clips.shape == (3, 2, 3, 24, 24)
    assert clips[:, :, 0, 0, 0].tolist() == [[0, 1]] * 3


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
        TestCrops(24, 1, "bicubc")


def test_shapes_of_boxes_are_drawn_log_uniformly_and_areas_uniformly():
    """Of w/h in 1/4 to 4, half are wider than high, a quarter wider than 2; drawn uniformly, four fifths and a half."""
    transform = RandomResizedCrop(24, area=(0.05, 0.15), ratio=(1 / 4, 4))
    boxes = np.array([transform.box(400, 400, RNG(seed)) for seed in range(2000)])
    h, w = boxes[:, 2:].T
    log = np.log(w / h) / np.log(4)  # uniform in -1 to 1
    for share, bound in ((0.25, -0.5), (0.5, 0.0), (0.75, 0.5)):
        assert np.mean(log < bound) == pytest.approx(share, abs=0.03)
    area = h * w / 400**2
    for share in (0.25, 0.5, 0.75):
        assert np.mean(area < 0.05 + 0.1 * share) == pytest.approx(share, abs=0.03)


def test_the_ratio_of_a_box_is_its_width_over_its_height():
    transform = RandomResizedCrop(24, area=(0.05, 0.1), ratio=(2, 3))
    boxes = np.array([transform.box(400, 400, RNG(seed)) for seed in range(100)])
    ratio = boxes[:, 3] / boxes[:, 2]
    assert 1.95 < ratio.min() < 2.2
    assert 2.8 < ratio.max() < 3.05


def test_boxes_reach_both_ends_of_the_frame():
    transform = RandomResizedCrop(24, area=(0.7, 0.8), ratio=(1, 1))
    boxes = np.array([transform.box(10, 10, RNG(seed)) for seed in range(200)])
    assert (boxes[:, 2:] == 9).mean() > 0.5
    nine = boxes[boxes[:, 2] == 9]
    assert {(int(t), int(x)) for t, x, _, _ in nine} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_defaults_of_crops_and_erasing_are_the_recipes():
    crop, erase = RandomResizedCrop(), RandomErasing()
    assert (crop.size, crop.area, crop.ratio, crop.interpolation) == (224, (0.08, 1.0), (3 / 4, 4 / 3), "bicubic")
    assert (erase.prob, erase.area, erase.ratio, erase.mode) == (0.25, (0.02, 1 / 3), 0.3, "noise")
    assert (TestCrops().size, TestCrops().crops, TestCrops().interpolation) == (224, 1, "bicubic")


def test_erased_boxes_have_the_area_and_shape_asked():
    clip, sizes = torch.zeros(1, 3, 100, 100, dtype=torch.uint8), []
    for seed in range(400):
        out, _ = RandomErasing(1.0, mode="mean")(clip, 0, RNG(seed))
        rows, columns = torch.nonzero(out[0, 0], as_tuple=True)
        sizes.append((int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1))
    h, w = np.array(sizes).T
    share, ratio = h * w / 1e4, w / h
    assert 0.015 < share.min() < 0.03
    assert 0.31 < share.max() < 0.345
    assert 0.28 < ratio.min() < 0.4
    assert 2.5 < ratio.max() < 3.5
    assert np.mean(ratio < 1) == pytest.approx(0.5, abs=0.07)
    done = [RandomErasing(0.25)(clip, 0, RNG(seed))[0] is not clip for seed in range(400)]
    assert np.mean(done) == pytest.approx(0.25, abs=0.06)


def test_flip_pairs_of_something_something():
    """Left-to-right and right-to-left are neighbors in the official labels file: 86/87, 93/94 and 166/167."""
    assert sorted(map(tuple, SSV2_FLIP_PAIRS)) == [(86, 87), (93, 94), (166, 167)]


def test_padding_repeats_the_border():
    clip = torch.arange(2 * 3 * 8 * 6, dtype=torch.uint8).reshape(2, 3, 8, 6)
    padded = torch.nn.functional.pad(clip.double(), (4, 4, 4, 4), mode="replicate")
    whole = {RandomCrop(14, padding=4)(clip, 0, RNG(seed))[0].double().numpy().tobytes() for seed in range(30)}
    assert whole == {padded[..., y : y + 14, :].numpy().tobytes() for y in range(3)}


def recording(number=2, weights=None, **settings):
    """A RandAugment whose operations only say that they were done, and with which magnitude."""
    transform, done = RandAugment("rand-m9-n2-p1"), []

    def operation(name):
        def aug_fn(image, level):
            done.append((name, level))
            return image

        given = {"prob": 1.0, "magnitude": 9, "magnitude_std": 0, "magnitude_max": None, **settings}
        return SimpleNamespace(
            name=name, aug_fn=aug_fn, level_fn=lambda level, hparams: (level,), hparams={}, kwargs={}, **given
        )

    transform.policy.ops = [operation("a"), operation("b")]
    transform.policy.choice_weights, transform.policy.num_layers = weights, number
    return transform, done


def drawn(count=300, frames=0, **settings):
    """What was done to clips of so many frames; none: to one picture, by the functions drawn."""
    transform, done = recording(**settings)
    rows = []
    for seed in range(count):
        done.clear()
        if frames:
            transform(still(frames, 8, 8), 0, RNG(seed))
        else:
            for _, operation in transform.draw(RNG(seed)):
                operation(None)
        rows.append(list(done))
    return rows


def test_all_operations_drawn_are_done_on_every_frame_as_often_as_asked():
    rows = drawn(count=60, frames=2)
    assert all(len(row) == 4 for row in rows)
    assert all(row[:2] == row[2:] for row in rows)
    assert {tuple(name for name, _ in row[:2]) for row in rows} == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}
    # with weights, as timm does: none twice
    weighted = drawn(weights=np.array([0.9, 0.1]))
    assert {"".join(sorted(name for name, _ in row)) for row in weighted} == {"ab"}
    some = drawn(prob=0.2, count=600)
    assert np.mean([len(row) for row in some]) == pytest.approx(0.4, abs=0.08)


def test_magnitudes_of_operations():
    """timm's: normal around the magnitude, cut to 0 and 10 (or `mmax`); uniform up to it for `mstdinf`."""
    assert {level for row in drawn() for _, level in row} == {9.0}
    levels = np.array([level for row in drawn(count=2000, magnitude=5, magnitude_std=0.5) for _, level in row])
    assert levels.mean() == pytest.approx(5, abs=0.05)
    assert levels.std() == pytest.approx(0.5, abs=0.03)
    levels = np.array([level for row in drawn(magnitude_std=20.0) for _, level in row])
    assert (levels.min(), levels.max()) == (0, 10)
    levels = np.array([level for row in drawn(magnitude_std=20.0, magnitude_max=12) for _, level in row])
    assert levels.max() == 12
    levels = np.array([level for row in drawn(magnitude_std=float("inf")) for _, level in row])
    assert levels.min() < 0.5
    assert 8.5 < levels.max() <= 9
    assert levels.mean() == pytest.approx(4.5, abs=0.4)


def test_operations_fill_with_the_color_asked_and_interpolate_bicubically():
    transform = RandAugment("rand-m9-n1-p1", fill=(200, 100, 50))
    transform.policy.ops = [op for op in transform.policy.ops if op.name == "Rotate"]
    assert transform.policy.ops[0].kwargs["resample"] == Image.Resampling.BICUBIC
    out, _ = transform(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 0, RNG(0))
    corners = out[0][:, [0, 0, -1, -1], [0, -1, 0, -1]].T.tolist()
    assert [200, 100, 50] in corners
