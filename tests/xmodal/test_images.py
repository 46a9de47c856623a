import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from xmodal.data.annotations import IMAGES
from xmodal.data.broken import TooManyBrokenFilesError
from xmodal.data.collate import collate
from xmodal.data.images import ImageDataset, read_image
from xmodal.data.pictures import ImageError, read_picture
from xmodal.data.transforms import CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, Resize
from xmodal.evaluation.image_benchmarks import BENCHMARKS, files_of, first_of, group_means, task_of
from xmodal.toys.digits import rows_of


def picture(path, seed=0, size=(40, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def listed(tmp_path):
    """Eight images in a list file; a blank in one name."""
    lines = []
    for i in range(8):
        name = f"some images/im {i}.png"
        picture(tmp_path / name, i)
        lines.append(f"{name} {i % 4}")
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


CROPS = [dict(type=Resize, size=36), dict(type=RandomCrop, size=24), dict(type=HorizontalFlip)]


def test_items_of_training_and_testing(listed):
    train = ImageDataset(listed / "train.txt", transforms=CROPS, seed=3)
    item = train[2, 5]
    assert item["image"].dtype == torch.uint8
    assert item["image"].shape == (3, 24, 24)
    assert (item["label"], item["sample_id"]) == (1, "some images/im 5.png")
    assert torch.equal(item["image"], ImageDataset(listed / "train.txt", transforms=CROPS, seed=3)[2, 5]["image"])
    views = [train[epoch, 5]["image"] for epoch in range(4)]
    assert any(not torch.equal(views[0], view) for view in views[1:])
    test = ImageDataset(listed / "train.txt", test_mode=True)
    assert test[5]["image"].dtype == torch.float32
    pixels = np.random.default_rng(5).integers(0, 255, (40, 32, 3), dtype=np.uint8)
    assert np.array_equal(test[5]["image"].permute(1, 2, 0).numpy(), pixels)
    assert collate([train[0, i] for i in range(4)])["image"].shape == (4, 3, 24, 24)
    assert train.num_classes == 4


def test_broken_files_are_skipped_replaced_and_counted(listed, caplog):
    (listed / "some images/im 2.png").write_bytes(b"no image")
    whole = (listed / "some images/im 3.png").read_bytes()
    (listed / "some images/im 3.png").write_bytes(whole[: len(whole) // 2])
    (listed / "some images/im 4.png").unlink()
    test = ImageDataset(listed / "train.txt", test_mode=True)
    items = [test[i] for i in range(8)]
    assert [item.get("skipped") for item in items[2:5]] == [f"some images/im {i}.png" for i in (2, 3, 4)]
    assert "no image: it begins with" in items[2]["reason"]
    assert len(test.broken) == 3
    train = ImageDataset(listed / "train.txt", seed=1)
    first, again = train[0, 2], train[0, 2]
    assert first["sample_id"] == again["sample_id"] != "some images/im 2.png"
    assert len([r for r in caplog.records if "im 2.png" in r.getMessage()]) == 2  # once for each data set


def test_too_many_broken_files_stop_the_run(listed):
    for i in range(6):
        (listed / f"some images/im {i}.png").write_bytes(b"")
    test = ImageDataset(listed / "train.txt", test_mode=True)
    with pytest.raises(TooManyBrokenFilesError, match=r"6 of 8 images .* max_broken"):
        [test[i] for i in range(8)]


def test_folders_and_json(tmp_path):
    for name in ("b/1.png", "a/2.png", "a/3.JPG"):
        picture(tmp_path / "set" / name)
    (tmp_path / "set/a/notes.txt").write_text("no image")
    folders = ImageDataset(tmp_path / "set")
    assert (folders.classes, folders.labels) == (["a", "b"], [0, 0, 1])
    (tmp_path / "train.json").write_text(json.dumps({"a/2.png": 30, "a/3.JPG": 10, "b/1.png": 20}))
    (tmp_path / "test.json").write_text(json.dumps({"b/1.png": 30}))
    test = ImageDataset(tmp_path / "test.json", root=tmp_path / "set", test_mode=True)
    assert test.labels == [2]  # counted as in train.json, which has three classes
    (tmp_path / "test.json").write_text(json.dumps({"b/1.png": 31}))
    with pytest.raises(ValueError, match=r"class 31 .* does not occur"):
        ImageDataset(tmp_path / "test.json", root=tmp_path / "set")


@pytest.mark.parametrize(
    ("line", "options", "match"),
    [
        ("a.png", {}, r"train.txt:1: expected `path label`"),
        ("a.png -1", {}, r"train.txt:1: expected"),
        ("a.png 2", {"classes": ["x", "y"]}, "label 2, but there are 2 classes"),
        ("a.png 0", {}, "none of the first 1 images"),
        ("", {}, "names no images"),
        ("a.png 0", {"format": "lists"}, "did you mean 'list'"),
        ("a.png 0", {"root": "/nowhere"}, "is not a folder"),
    ],
)
def test_mistakes_in_annotations_are_named(tmp_path, line, options, match):
    (tmp_path / "train.txt").write_text(line)
    with pytest.raises(ValueError, match=match):
        ImageDataset(tmp_path / "train.txt", **options)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    gray = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(gray).convert("RGB").convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    frames = read_image(path)
    assert frames.shape == (1, 3, 8, 8)
    assert frames.dtype == torch.uint8
    if mode in ("L", "RGBA", "I;16"):
        assert np.array_equal(frames[0, 0].numpy(), gray)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_pictures_are_turned_as_their_exif_says(tmp_path, ending, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif)
    with Image.open(tmp_path / f"a.{ending}") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / f"a.{ending}")), wanted)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "an empty file"), (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, which is not read: save it as PNG or JPEG"),
     (b"<!DOCTYPE html>", "text"), (b"\xff\x0a\0\0", "JPEG XL"), (b"12345", "it begins with b'12345'")],
)  # fmt: skip
def test_what_is_no_image_is_named(data, said):
    with pytest.raises(ImageError, match=f"^no image: {said}"):
        read_picture(data)


def test_damaged_exif_leaves_the_picture_readable(tmp_path):
    pixels = np.full((24, 40, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12\0\3")
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png")), pixels)


def test_pixels_of_32_bits_are_not_clipped_unsaid(tmp_path):
    gray = np.linspace(0, 255, 64).reshape(8, 8).round()
    Image.fromarray(gray.astype(np.float32)).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.tif"))[..., 0], gray)
    Image.fromarray((gray * 257).astype(np.int32)).save(tmp_path / "a.pgm")  # 16 bits, which Pillow reads as 32
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.pgm"))[..., 0], gray)
    for other in ((gray / 255).astype(np.float32), (gray * 257).astype(np.int32), (gray - 9).astype(np.float32)):
        Image.fromarray(other).save(tmp_path / "b.tif")
        with pytest.raises(ImageError, match=r"32-bit pixels from .* to .*, whose white is not known: save 8 or 16"):
            read_picture(tmp_path / "b.tif")


def test_resizing_is_pillows(tmp_path):
    from torchvision.transforms import CenterCrop as TheirCrop
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import Resize as TheirResize

    image = Image.fromarray(picture(tmp_path / "a.png", 7, (67, 91)))
    theirs = TheirCrop(24)(TheirResize(32, InterpolationMode.BICUBIC)(image))
    frames, label = read_image(tmp_path / "a.png"), 0
    for transform in (Resize(32), CenterCrop(24)):
        frames, label = transform(frames, label, np.random.default_rng(0))
    assert np.array_equal(frames[0].permute(1, 2, 0).numpy(), np.asarray(theirs))
    crop = RandomResizedCrop(16, area=(1, 1), ratio=(1, 1), antialias=True)
    square = frames[..., :24, :24]
    want = Image.fromarray(square[0].permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(crop(square, 0, np.random.default_rng(0))[0][0].permute(1, 2, 0).numpy(), np.asarray(want))


def test_transforms_refuse_what_cannot_be():
    small = torch.zeros(1, 3, 10, 10, dtype=torch.uint8)
    with pytest.raises(ValueError, match="image_resize before"):
        CenterCrop(24)(small, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="short side or"):
        Resize([1, 2, 3])
    with pytest.raises(ValueError, match="no interpolation"):
        Resize(5, "bicubik")(small, 0, np.random.default_rng(0))


def test_benchmarks_have_their_tasks_and_means():
    groups = [task.group for task in BENCHMARKS["vtab"].values()]
    assert [groups.count(g) for g in ("Natural", "Specialized", "Structured")] == [7, 4, 8]
    assert len(BENCHMARKS["fgvc"]) == len(BENCHMARKS["fewshot"]) == 5
    results = {task: {"Natural": 90, "Specialized": 60, "Structured": 30}[g]
               for task, g in zip(BENCHMARKS["vtab"], groups, strict=True)}  # fmt: skip
    means = group_means(results, "vtab")
    assert means["mean of groups"] == 60
    assert means["mean of tasks"] == pytest.approx((7 * 90 + 4 * 60 + 8 * 30) / 19)
    results.pop("dtd")
    assert set(group_means(results, "vtab")) == {"Specialized", "Structured"}
    with pytest.raises(ValueError, match="did you mean 'cifar'"):
        task_of("vtab", "cifarr")
    with pytest.raises(ValueError, match="did you mean 'vtab'"):
        task_of("vtabs", "cifar")


def test_few_shot_and_fgvc_files_are_found(tmp_path):
    cars = task_of("fewshot", "cars")
    for name in ("annotations/train_meta.list.num_shot_4.seed_2", "annotations/test_meta.list", "images/a b.png"):
        (tmp_path / "stanford_cars" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stanford_cars" / name).write_text("a b.png 0\n")
    found = files_of("fewshot", cars, "trainval", tmp_path, shots=4, seed=2)
    assert found["annotation"].endswith("train_meta.list.num_shot_4.seed_2")
    assert found["root"].endswith("images")
    assert ImageDataset(**found).samples[0].path.endswith("a b.png")
    with pytest.raises(ValueError, match=r"looked for .*num_shot_8.seed_2"):
        files_of("fewshot", cars, "train", tmp_path, shots=8, seed=2)
    with pytest.raises(ValueError, match="not 3"):
        files_of("fewshot", cars, "train", tmp_path, shots=3)
    with pytest.raises(ValueError, match="is not there"):
        first_of([tmp_path / "x"], "it")
    (tmp_path / "CUB_200_2011/images").mkdir(parents=True)
    (tmp_path / "CUB_200_2011/train.json").write_text("{}")
    found = files_of("fgvc", task_of("fgvc", "cub"), "trainval", tmp_path)
    assert (found["format"], found["root"][-6:]) == ("json", "images")


def test_statistics_are_the_recipes():
    from xmodal.encoders.statistics import with_statistics
    from xmodal.encoders.tiny import tiny_clip_encoder

    cfg = dict(type=tiny_clip_encoder, weights="random")
    assert with_statistics(cfg, "half").pixel_mean == (0.5, 0.5, 0.5)
    assert with_statistics(cfg, "own").pixel_mean == tiny_clip_encoder("random").pixel_mean
    with pytest.raises(ValueError, match="did you mean 'imagenet'"):
        with_statistics(cfg, "imagnet")


def test_folders_are_classes_in_alphabetical_order(tmp_path, monkeypatch):
    """Whatever order the disk lists them in."""
    for name in ("dog/2.png", "dog/1.png", "ant/1.png", "cat/1.png"):
        picture(tmp_path / name)
    plain = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(plain(self), reverse=True)))
    listing = IMAGES.read(tmp_path)
    assert listing.classes == ["ant", "cat", "dog"]
    want = [("ant/1.png", 0), ("cat/1.png", 1), ("dog/1.png", 2), ("dog/2.png", 2)]
    assert [(s.sample_id, s.label) for s in listing.samples] == want
    given = IMAGES.read(tmp_path, classes=["dog", "cat", "ant"])
    assert [s.label for s in given.samples] == [2, 1, 0, 0]


def test_digits_are_split_without_overlap():
    """1797 scans: 500 to test, 300 to validate, shots of the others."""
    sklearn = pytest.importorskip("sklearn.datasets")
    target = sklearn.load_digits().target
    parts = {s: rows_of(target, s, shots=8, draw=1) for s in ("train", "val", "trainval", "test")}
    assert {s: len(rows) for s, rows in parts.items()} == {"train": 80, "val": 300, "trainval": 380, "test": 500}
    assert np.bincount(target[parts["train"]]).tolist() == [8] * 10
    assert len(set().union(*(parts[s].tolist() for s in ("train", "val", "test")))) == 880
    assert set(parts["trainval"]) == {*parts["train"], *parts["val"]}
    other = rows_of(target, "train", shots=8, draw=2)
    assert set(other) != set(parts["train"])
    assert not set(other) & {*parts["val"], *parts["test"]}
