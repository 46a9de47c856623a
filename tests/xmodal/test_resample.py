"""Parts of resized clips against whole frames resized by torch, OpenCV, Pillow and torchvision."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from xmodal.data.resample import LazyClip, pillow_part, resize_part
from xmodal.data.transforms import (
    CenterCrop,
    HorizontalFlip,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    ShortSideJitter,
    transformed,
)

SIZES = [
    ((256, 340), (241, 320)),
    ((40, 61), (97, 131)),
    ((480, 200), (31, 24)),
    ((1, 2), (9, 5)),
    ((33, 33), (33, 20)),
]


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def boxes(height, width):
    """The whole, a corner, the middle and a single pixel."""
    yield 0, 0, height, width
    yield height // 2, width // 2, height - height // 2, width - width // 2
    yield height // 4, width // 3, max(height // 2, 1), max(width // 2, 1)
    yield height - 1, 0, 1, 1


def cut(images, box):
    top, left, h, w = box
    return images[..., top : top + h, left : left + w]


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_a_part_has_the_values_of_the_whole(source, target, mode):
    frames = noise(2, 3, *source)
    whole = interpolate(frames.float(), target, mode=mode, align_corners=False)
    for box in boxes(*target):
        for mirrored in (False, True):
            want = cut(whole, box).flip(-1) if mirrored else cut(whole, box)
            got = resize_part(frames, target, box, mirrored, mode, torch.float32)
            assert (got - want).abs().max() < 0.01
            got = resize_part(frames, target, box, mirrored, mode)
            assert got.dtype == torch.uint8
            off = (got.float() - want.round().clamp(0, 255)).abs()
            assert off.max() <= 1
            # another byte only where the value lies between two
            assert ((want - want.floor())[off > 0] - 0.5).abs().max().item() < 0.01 if off.any() else True
            assert (off > 0).float().mean() < 2e-3 or max(target) < 10


@pytest.mark.parametrize(("mode", "kind"), [("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)])
def test_a_part_is_that_of_opencv(mode, kind):
    frames = noise(1, 3, 50, 70)
    whole = cv2.resize(frames[0].permute(1, 2, 0).numpy().astype(np.float32), (47, 91), interpolation=kind)
    got = resize_part(frames, (91, 47), (20, 10, 60, 30), True, mode, torch.float32)[0].permute(1, 2, 0).numpy()
    assert np.abs(got - whole[20:80, 10:40][:, ::-1]).max() < 0.01


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nothing_is_read_but_what_the_part_needs(layout):
    """Scale 2: rows 10 to 19 of the result are taken from rows 18 to 41 at most; elsewhere NaN."""
    frames = noise(2, 3, 80, 90).float().contiguous(memory_format=layout)
    whole = interpolate(frames, (40, 45), mode="bicubic", align_corners=False)
    frames[..., :18, :], frames[..., 42:, :] = torch.nan, torch.nan
    frames[..., :8], frames[..., 52:] = torch.nan, torch.nan
    got = resize_part(frames, (40, 45), (10, 5, 10, 20), dtype=torch.float32)
    assert (got - whole[..., 10:20, 5:25]).abs().max() < 0.01


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_an_antialiased_part_has_the_pixels_of_pillows_whole(source, target, mode):
    frames = noise(1, 3, *source)
    picture = Image.fromarray(frames[0].permute(1, 2, 0).numpy())
    whole = np.asarray(picture.resize(target[::-1], Image.Resampling[mode.upper()]))
    for box in boxes(*target):
        want = cut(torch.tensor(whole).permute(2, 0, 1), box)
        assert torch.equal(pillow_part(frames, target, box, interpolation=mode)[0], want)
        assert torch.equal(pillow_part(frames, target, box, True, mode)[0], want.flip(-1))


def test_an_antialiased_part_is_torchvisions_within_one():
    from torchvision.transforms.v2.functional import resize

    frames = noise(2, 3, 120, 150)
    whole = resize(frames, [48, 60], antialias=True, interpolation=3)  # 3: bicubic
    got = pillow_part(frames, (48, 60), (10, 20, 30, 40))
    assert (got.int() - whole[..., 10:40, 20:60].int()).abs().max() <= 1


def plain(transforms, clip, label, rng):
    for transform in transforms:
        clip, label = transform(clip, label, rng)
    return clip, label


CHAINS = {
    "k400": [ShortSideJitter(24, 30), RandomCrop(24), HorizontalFlip()],
    "aim": [ShortSideJitter(32, 32), HorizontalFlip(), RandomResizedCrop(24)],
    "flips first": [HorizontalFlip(), ShortSideJitter(24, 40), RandomCrop(20), HorizontalFlip(), RandomCrop(12)],
    "erasing": [RandomResizedCrop(24), HorizontalFlip(), RandomErasing(1.0), RandomCrop(20), HorizontalFlip()],
    "padding": [ShortSideJitter(24, 26), RandomCrop(28, padding=4), HorizontalFlip()],
    "crop, then resize": [RandomCrop(30), HorizontalFlip(), Resize(20), CenterCrop(16)],
    "images": [Resize(40, "bilinear"), RandomCrop(32), HorizontalFlip()],
    "views": [RandomResizedCrop(24, antialias=True), HorizontalFlip()],
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_computed_at_once_gives_the_pixels_of_one_after_the_other(name):
    clip = noise(2, 3, 48, 70)
    for seed in range(12):
        want, label = plain(CHAINS[name], clip, (3, 5), np.random.default_rng(seed))
        got, same = transformed(CHAINS[name], clip, (3, 5), np.random.default_rng(seed))
        assert (got.shape, got.dtype, label) == (want.shape, torch.uint8, same)
        off = (got.int() - want.int()).abs()
        assert off.max() <= 1
        assert (off > 0).float().mean() < 2e-3


def test_only_the_kept_pixels_are_computed(monkeypatch):
    asked = []

    def noted(frames, size, box, mirrored):
        asked.append((size, box, mirrored))
        return resize_part(frames, size, box, mirrored)

    clip = LazyClip.of(noise(1, 3, 60, 80)).resize((30, 40), noted).crop(2, 3, 24, 25).flip().crop(1, 2, 20, 21)
    assert (clip.shape, asked) == ((20, 21), [])
    assert clip.pixels().shape == (1, 3, 20, 21)
    assert asked == [((30, 40), (3, 3 + 25 - 2 - 21, 20, 21), True)]
    clip.resize((10, 10), noted).pixels()
    assert asked[1:] == [asked[0], ((10, 10), (0, 0, 10, 10), False)]


def test_an_untouched_clip_is_handed_on_as_it_is():
    frames = noise(2, 3, 8, 9)
    assert LazyClip.of(frames).resize((8, 9), resize_part).pixels() is frames


@pytest.mark.parametrize("part", [resize_part, pillow_part])
def test_unknown_interpolations_are_refused(part):
    with pytest.raises(ValueError, match="did you mean 'bicubic'"):
        part(noise(1, 3, 4, 4), (2, 2), (0, 0, 2, 2), interpolation="bicubc")
