"""Transforms against OpenCV, hand-made numbers, and draws whose result is known."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.pictures import crop_box, random_crop
from xmodal.data.resample import resize_part
from xmodal.data.transforms import (
    CenterCrop,
    HorizontalFlip,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    ShortSideJitter,
    short_side_size,
    to_bytes,
)


class Draws:
    """A generator whose uniform draws are all at one share of their range, and whose integers are its lowest."""

    def __init__(self, share, high=False):
        self.share, self.high = share, high

    def uniform(self, low, high):
        return low + self.share * (high - low)

    def random(self):
        return self.share

    def integers(self, low, high=None, endpoint=False):
        low, high = (np.zeros_like(low), np.asarray(low)) if high is None else (np.asarray(low), np.asarray(high))
        found = (high if endpoint else high - 1) if self.high else np.broadcast_to(low, high.shape)
        return found if found.ndim else int(found)


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(("share", "ratio"), [(0.0, 1 / 4), (0.25, 1 / 2), (0.5, 1.0), (0.75, 2.0), (1.0, 4.0)])
def test_crops_draw_the_ratio_log_uniformly(share, ratio):
    """Ratios are width over height; between 1/4 and 4 the middle of the logarithms is 1."""
    crop = RandomResizedCrop(8, area=(0.04, 0.04), ratio=(1 / 4, 4))
    _, _, h, w = crop.box(200, 200, Draws(share))
    assert (w, h) == (round(40 * ratio**0.5), round(40 / ratio**0.5))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_crops_of_captions_and_few_shot_images_draw_the_ratio_log_uniformly(share):
    ratio = {0.0: 3 / 4, 0.5: 1.0, 1.0: 4 / 3}[share]
    want = (round(500 * ratio**0.5), round(500 / ratio**0.5))
    left, top, right, bottom = crop_box(1000, 1000, (0.25, 0.25), Draws(share))
    assert (right - left, bottom - top) == want
    cut = []

    class Picture:
        size = (1000, 1000)

        def resize(self, size, kind, box):
            cut.append((box[2] - box[0], box[3] - box[1]))

    random_crop(Picture(), 8, Draws(share), scale=(0.25, 0.25), flip=False)
    assert cut == [want]


def test_crops_draw_the_area_uniformly():
    crop = RandomResizedCrop(8, area=(0.04, 0.36), ratio=(1, 1))
    assert [crop.box(100, 100, Draws(s))[2] for s in (0.0, 0.5, 1.0)] == [20, round(100 * 0.2**0.5), 60]


def test_crops_reach_every_border():
    clip, draws = noise(1, 3, 9, 7), np.random.default_rng(0)
    boxes = [RandomResizedCrop(4, area=(0.3, 0.3), ratio=(1, 1)).box(9, 7, draws) for _ in range(200)]
    assert {(h, w) for _, _, h, w in boxes} == {(4, 4)}
    assert {top for top, *_ in boxes} == set(range(6))
    assert {left for _, left, *_ in boxes} == set(range(4))
    assert torch.equal(RandomCrop(4)(clip, 0, Draws(0, high=True))[0], clip[..., 5:, 3:])
    assert torch.equal(RandomCrop(4)(clip, 0, Draws(0))[0], clip[..., :4, :4])


def test_a_crop_that_never_fits_is_the_largest_of_the_allowed_shape():
    """Ten draws of a box as large as the image and twice as wide as high do not fit a high one."""
    crop = RandomResizedCrop(8, area=(1, 1), ratio=(2, 3))
    assert crop.box(100, 40, Draws(0.5)) == (40, 0, 20, 40)  # 40 wide, half as high, in the middle
    narrow = RandomResizedCrop(8, area=(1, 1), ratio=(1 / 3, 1 / 2))
    assert narrow.box(40, 100, Draws(0.5)) == (0, 40, 40, 20)


def test_padding_repeats_the_border():
    clip = noise(2, 3, 5, 6)
    want = np.stack([np.pad(frame, ((0, 0), (2, 2), (2, 2)), mode="edge") for frame in clip.numpy()])
    assert np.array_equal(RandomCrop(9, padding=2)(clip, 0, Draws(0))[0].numpy(), want[..., :9])


def test_jitter_reaches_both_ends():
    sides = {ShortSideJitter(6, 8)(noise(1, 3, 12, 20), 0, np.random.default_rng(i))[0].shape[-2] for i in range(30)}
    assert sides == {6, 7, 8}


def test_the_long_side_is_rounded_down():
    assert short_side_size(100, 151, 64) == (64, 96)  # 96.64
    assert short_side_size(151, 100, 64) == (96, 64)
    assert short_side_size(50, 50, 64) == (64, 64)
    assert Resize(64)(noise(1, 3, 100, 151), 0, None)[0].shape == (1, 3, 64, 96)
    assert Resize([10, 20])(noise(1, 3, 100, 151), 0, None)[0].shape == (1, 3, 10, 20)


@pytest.mark.parametrize(("name", "kind"), [("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)])
def test_clips_are_resized_as_opencv_does(name, kind):
    frames = noise(2, 3, 20, 30)
    got = resize_part(frames, (33, 47), (0, 0, 33, 47), interpolation=name, dtype=torch.float32)
    want = np.stack(
        [cv2.resize(f.astype(np.float32), (47, 33), interpolation=kind) for f in frames.permute(0, 2, 3, 1).numpy()]
    )
    assert np.abs(got.permute(0, 2, 3, 1).numpy() - want).max() < 1e-2
    assert got.min() < 0 or name == "bilinear", "neither rounded nor clamped"


def test_bytes_are_rounded_and_clamped():
    assert to_bytes(torch.tensor([-3.0, 0.4, 0.6, 254.6, 260.0])).tolist() == [0, 0, 1, 255, 255]


def test_the_middle_is_cut_out():
    clip = noise(1, 3, 9, 12)
    assert torch.equal(CenterCrop(5)(clip, 3, None)[0], clip[..., 2:7, 4:9])


def test_mirrored_clips_exchange_the_labels_of_a_pair():
    clip, flip = noise(2, 3, 4, 5), HorizontalFlip(1.0, [(3, 7), (1, 2)])
    got = [flip(clip, label, Draws(0.5)) for label in (3, 7, 1, 2, 5)]
    assert [label for _, label in got] == [7, 3, 2, 1, 5]
    assert all(np.array_equal(mirrored.numpy(), clip.numpy()[..., ::-1]) for mirrored, _ in got)
    assert HorizontalFlip(0.0, [(3, 7)])(clip, 3, Draws(0.5))[1] == 3
    with pytest.raises(ValueError, match="none twice"):
        HorizontalFlip(0.5, [(1, 2), (2, 3)])


@pytest.mark.parametrize("kind", [HorizontalFlip, RandomErasing])
def test_flips_and_erasures_come_as_often_as_asked(kind):
    clip = noise(1, 3, 8, 8)
    changed = lambda prob, drawn: not torch.equal(kind(prob)(clip, 0, Wrapped(drawn))[0], clip)  # noqa: E731
    assert [changed(0.25, drawn) for drawn in (0.0, 0.24, 0.25, 0.9)] == [True, True, False, False]
    assert changed(1.0, 0.999)
    assert not changed(0.0, 0.0)


class Wrapped:
    """A seeded generator whose first `random` is given."""

    def __init__(self, first):
        self.first, self.rng = first, np.random.default_rng(0)

    def random(self):
        return self.first

    def __getattr__(self, name):
        return getattr(self.rng, name)


def test_erasing_fills_a_box_with_the_mean():
    """The mean is CLIP's of the pixels in [0, 1], times 255."""
    clip = torch.zeros(3, 3, 20, 30, dtype=torch.uint8)
    got, label = RandomErasing(1.0, area=(0.25, 0.25), ratio=1.0, mode="mean")(clip, 4, Wrapped(0.0))
    mean = [round(255 * m) for m in (0.48145466, 0.4578275, 0.40821073)]
    for frame in got:
        rows, columns = torch.nonzero(frame[0], as_tuple=True)
        assert len(rows) == 12 * 12  # a quarter of 600 pixels as a square: 12.2 a side
        assert (rows.max() - rows.min(), columns.max() - columns.min()) == (11, 11)
        assert frame[:, rows, columns].unique(dim=1).flatten().tolist() == mean
    assert label == 4
    assert not clip.any(), "the clip itself is left as it was"


def test_erasing_draws_noise_around_the_mean():
    clip = torch.zeros(2, 3, 60, 60, dtype=torch.uint8)
    got = RandomErasing(1.0, area=(1, 1), ratio=1.0)(clip, 0, Wrapped(0.0))[0].float()
    assert got.std((0, 2, 3)).tolist() == pytest.approx(
        [255 * s for s in (0.26862954, 0.26130258, 0.27577711)], rel=0.15
    )
    assert got.mean((0, 2, 3)).tolist() == pytest.approx([123, 117, 104], abs=8)
    assert not torch.equal(got[0], got[1]), "every frame has its own noise"


@pytest.mark.parametrize(("share", "shape"), [(0.0, (20, 5)), (0.5, (10, 10)), (1.0, (5, 20))])
def test_erasing_draws_wide_and_tall_boxes_alike(share, shape):
    """Ratios between 1/4 and 4 of a box of 100 pixels: (height, width)."""

    class Fixed(Draws):
        def random(self):
            return 0.0

        def standard_normal(self, size, dtype):
            return np.zeros(size, dtype)

    clip = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    got = RandomErasing(1.0, area=(100 / 1600, 100 / 1600), ratio=0.25)(clip, 0, Fixed(share))[0][0, 0]
    rows, columns = torch.nonzero(got, as_tuple=True)
    assert (int(rows.max()) + 1, int(columns.max()) + 1) == shape


def test_views_are_cut_as_pillow_does():
    pixels = noise(30, 50, 3).numpy()
    crop = RandomResizedCrop(16, area=(0.5, 0.5), ratio=(1, 1), antialias=True)
    side = round((0.5 * 30 * 50) ** 0.5)  # 27
    frames = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    want = Image.fromarray(pixels[:side, :side]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(crop(frames, 0, Draws(0.5))[0][0].permute(1, 2, 0).numpy(), np.asarray(want))
