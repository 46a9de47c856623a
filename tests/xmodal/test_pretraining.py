"""Contrastive training: readers, exact chunks, zero-shot evaluation, learning, and every recipe."""

import io
import json
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.captions import CaptionList, LabeledFolder, MixedPairs, TarShards
from xmodal.data.collate import collate
from xmodal.data.pictures import random_crop
from xmodal.encoders.tiny import tiny_clip
from xmodal.losses import unicl_loss
from xmodal.pretraining import ContrastiveModel, retrieval
from xmodal.toys.shape_captions import CLASSES, ShapeCaptions, shape_tokenizer
from xmodal.toys.shape_pool import ShapeThings
from xmodal.toys.shapes import COLORS, SHAPES, picture

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "pretrain").glob("*.py"))


def png(color, size=(40, 30)):
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "png")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name, color in (("red_thing", "red"), ("sky", "blue")):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "classes" / name / f"{i}.png").write_bytes(png(color))
    (tmp_path / "a.png").write_bytes(png("green"))
    (tmp_path / "list.csv").write_text('image,caption\na.png,"green, all over"\n')
    (tmp_path / "list.jsonl").write_text(json.dumps({"file": "a.png", "text": "green"}) + "\n")
    with tarfile.open(tmp_path / "shard-0.tar", "w") as shard:
        for name, data in (("x/1.png", png("white")), ("x/1.txt", b"white\n"), ("2.png", png("black"))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
        for name, data in (("2.json", json.dumps({"caption": "black"}).encode()), ("3.png", png("black"))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return tmp_path


def test_readers(folder):
    lines = CaptionList(str(folder / "list.csv"), size=16)
    sample = lines[(0, 0)]
    assert (sample["caption"], sample["label"], sample["image"].shape) == ("green, all over", 0, (3, 16, 16))
    assert sample["image"].reshape(3, -1).mean(1).tolist() == [0, 128, 0]
    lines = CaptionList([str(folder / "list.jsonl")], image_key="file", caption_key="text", size=16)
    assert lines[0]["caption"] == "green"
    shards = TarShards(str(folder / "shard-*.tar"), size=16)
    assert [(shards[i]["caption"], int(shards[i]["image"].max())) for i in range(2)] == [("white", 255), ("black", 0)]
    assert shards[0]["sample_id"] == "shard-0.tar/x/1"
    with pytest.raises(ValueError, match="no 'picture'"):
        CaptionList(str(folder / "list.csv"), image_key="picture")
    with pytest.raises(ValueError, match=r"captions are \.csv"):
        CaptionList(str(folder / "a.png"))
    with pytest.raises(ValueError, match="no tar is called"):
        TarShards(str(folder / "none-*.tar"))


COCO = {
    "info": {"year": 2014},
    "images": [{"id": 7, "file_name": "sub/b.png"}, {"id": 3, "file_name": "a.png"}],
    "annotations": [
        {"id": 1, "image_id": 3, "caption": "A cat. "},
        {"id": 2, "image_id": 7, "caption": "A dog."},
        {"id": 3, "image_id": 3, "caption": "One cat."},
    ],
}
OBJECTS = [{"caption": ["A cat.", "One cat."], "image": "a.png"}, {"caption": "A dog.", "image": "sub/b.png"}]
TWO = [("a.png", "A cat."), ("a.png", "One cat."), ("sub/b.png", "A dog.")]
TABLE = [("a.png", "A cat."), ("sub/b.png", "A dog; or not.")]


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("captions_val2014.json", json.dumps(COCO), [TWO[0], TWO[2], TWO[1]]),
        ("bare.json", json.dumps({k: v for k, v in COCO.items() if k != "info"}), [TWO[0], TWO[2], TWO[1]]),
        ("coco_karpathy_train.json", json.dumps(OBJECTS, indent=1), TWO),
        ("lines.jsonl", "".join(json.dumps(row) + "\n" for row in OBJECTS), TWO),
        ("lines.json", "".join(json.dumps(row) + "\n" for row in OBJECTS), TWO),
        ("openclip.csv", "filepath\ttitle\na.png\tA cat.\nsub/b.png\tA dog; or not.\n", TABLE),
        ("captions.txt", "image,caption\na.png,A cat.\nsub/b.png,A dog; or not.\n", TABLE),
        ("results.csv", "image_name| comment_number| comment\na.png| 0| A cat.\nsub/b.png| 1| A dog; or not.\n", TABLE),
        ("wide.tsv", "TEXT\tFile_Name\tlabel\nA cat.\ta.png\t4\n\tsub/b.png\t\n", TABLE[:1]),
    ],
)
def test_captions_of_the_files_that_people_have(tmp_path, name, content, want):
    for image in ("a.png", "sub/b.png"):
        (tmp_path / image).parent.mkdir(exist_ok=True)
        (tmp_path / image).write_bytes(png("red"))
    (tmp_path / name).write_text(content)
    found = CaptionList(str(tmp_path / name), size=8)
    assert [(os.path.relpath(path, tmp_path), text) for _, (path, text) in found.items] == want
    assert [found[i]["caption"] for i in range(len(want))] == [text for _, text in want]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "picture,says\na.png,x\n",
            r"no column of images among .*; name it as `image_key`",
        ),
        ("a.csv", "image,says\na.png,x\n", r"no column of captions among .*; name it as `caption_key`"),
        ("a.csv", "image,caption\nb.png,x\n", r"none of the first 1 images of .* exists"),
        ("a.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}', "file_name"),
        ("a.json", '{"pictures": 3}', "expected a list of objects, an object a line, or COCO's"),
        ("a.jsonl", '{"image": "a.png", "caption": "x"}\n{"image": "a.png"}\n', "sample 2: no 'image' or 'caption'"),
        ("a.jsonl", '{"image": "a.png", "caption": "x"}\n{"image"\n', r"a\.jsonl:2: not valid JSON"),
    ],
)
def test_captions_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        CaptionList(str(tmp_path / name))


def test_rows_without_a_caption_are_counted(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "a.csv").write_text("image,caption\na.png,one\na.png,\n,three\na.png,four\n")
    with caplog.at_level("WARNING", "xmodal.data"):
        assert len(CaptionList(str(tmp_path / "a.csv"))) == 2
    assert "2 of 4 rows have no caption or no image" in caplog.text


def test_folders_label_from_one_and_mix_by_name(folder):
    labeled = LabeledFolder(str(folder / "classes"), templates=["a {}", "the {}"], size=16, seed=3)
    assert [labeled[(0, i)]["label"] for i in (0, 3)] == [1, 2]
    texts = {labeled[(epoch, 0)]["caption"] for epoch in range(12)}
    assert texts == {"a red thing", "the red thing"}
    assert labeled[(5, 0)]["caption"] == labeled[(5, 0)]["caption"]
    assert LabeledFolder(str(folder / "classes"), size=16, test=True)[4]["label"] == 1
    other = LabeledFolder(str(folder / "classes"), class_names=["sky", "sea"], size=16)
    mixed = MixedPairs([CaptionList(str(folder / "list.csv"), size=16), labeled, other])
    assert len(mixed) == 13
    assert mixed.classes == ["red thing", "sky", "sea"]
    assert [mixed[(0, i)]["label"] for i in (0, 1, 4, 7, 10)] == [0, 1, 2, 2, 3]


def test_unreadable_samples_are_replaced_in_training_and_named_in_tests(folder):
    (folder / "classes" / "sky" / "0.png").write_bytes(b"no picture")
    train = LabeledFolder(str(folder / "classes"), size=16)
    sample = train[(0, 3)]
    assert "sky/0.png" in sample["replaced"][0]["sample_id"]
    assert train[(0, 3)]["sample_id"] == sample["sample_id"]
    batch = collate([LabeledFolder(str(folder / "classes"), size=16, test=True)[3], *[train[(0, i)] for i in (0, 4)]])
    assert len(batch["skipped"]) == 1
    for path in (folder / "classes" / "red_thing").glob("*.png"):
        path.write_bytes(b"")
    for path in (folder / "classes" / "sky").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        train[(1, 0)]


def test_crops_stay_inside_and_repeat():
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    one, two, three = (
        np.asarray(random_crop(picture, 16, np.random.default_rng(s), scale=(0.1, 1.0))) for s in (1, 1, 2)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)


def test_captions_are_cut_as_their_config_says(folder):
    """Unless told otherwise half the area or more stays, and nothing is mirrored; misspelt words are refused."""
    plain = CaptionList(str(folder / "list.csv"), size=16)
    assert plain.crop == dict(scale=(0.5, 1.0), flip=False)
    assert CaptionList(str(folder / "list.csv"), crop=dict(flip=True)).crop == dict(scale=(0.5, 1.0), flip=True)
    for wrong in (dict(crop=dict(flop=True)), dict(sise=16)):
        with pytest.raises(ValueError, match="did you mean"):
            CaptionList(str(folder / "list.csv"), **wrong)


@pytest.fixture(scope="module")
def world():
    return ShapeCaptions(48, labeled=0.5, seed=1)


def model(**options):
    return ContrastiveModel(tiny_clip("random"), classes=CLASSES, templates=["a photo of a {}"], **options)


def batch_of(net, world, keys):
    return net.data_preprocessor(collate([world[(0, i)] for i in keys]))


def test_world_is_a_function_of_seed_and_epoch(world):
    again = ShapeCaptions(48, labeled=0.5, seed=1)
    assert np.array_equal(world.images, again.images)
    assert all(world[(3, i)]["caption"] == again[(3, i)]["caption"] for i in range(48))
    assert 0 < (world.labels > 0).sum() < 48
    alone = ShapeCaptions(5, world=2, alone=True)
    assert all(0 <= alone[i]["label"] < 64 for i in range(5))


def test_chunks_give_the_same_loss_and_gradients(world):
    whole, parts = model(), model(chunk=5)
    parts.load_state_dict(whole.state_dict())
    grads = []
    for net in (whole, parts):
        net.train()
        net(mode="loss", **batch_of(net, world, range(16)))["loss"].backward()
        grads.append([p.grad for p in net.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))


def test_a_step_lowers_the_loss_and_the_classifier_is_made_anew(world):
    torch.manual_seed(0)
    net = model().train()
    batch = batch_of(net, world, range(32))
    optimizer, losses = torch.optim.AdamW(net.parameters(), 1e-3), []
    for _ in range(6):
        losses.append(net(mode="loss", **batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1
    net.eval()
    with torch.no_grad():
        predictions = net(mode="predict", **batch_of(net, world, range(4)))
    assert predictions[0]["scores"].shape == (64,)
    assert predictions[0]["scores"].sum() == pytest.approx(1, abs=1e-4)
    before = net.classifier()
    net.train().eval()
    assert net._classifier is None
    assert torch.equal(before, net.classifier())


def test_mistakes_are_named(world):
    with pytest.raises(ValueError, match="did you mean 'unicl'"):
        model(loss="unicle")
    with pytest.raises(ValueError, match="chunk=1"):
        model(chunk=1)
    with pytest.raises(ValueError, match="caption"):
        model()(mode="loss", image=torch.zeros(1, 3, 48, 48))
    with pytest.raises(ValueError, match="`classes`"):
        ContrastiveModel(tiny_clip("random"), tokenizer=shape_tokenizer()).classifier()


def test_any_pair_of_towers_trains(world):
    tower = dict(type="timm_encoder", name="vit_tiny_patch16_224", weights="random", image_size=48, arch=dict(depth=1))
    text = dict(type="text_transformer", vocab_size=62, context_length=20, dim=32, depth=1, num_heads=2, out_dim=192)
    net = ContrastiveModel(
        dict(type="two_towers", visual=tower, text=text, tokenizer=dict(type=shape_tokenizer))
    ).train()
    net(mode="loss", **batch_of(net, world, range(4)))["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(ValueError, match="must agree"):
        ContrastiveModel(dict(type="two_towers", visual=tower, text={**text, "out_dim": 32}))


def test_retrieval_by_hand():
    image = torch.eye(3)
    text = torch.eye(3)[[0, 2, 1]]
    assert retrieval(image, text, at=(1,)) == {"i2t_r1": pytest.approx(100 / 3), "t2i_r1": pytest.approx(100 / 3)}
    same = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    assert retrieval(image, text, same, at=(1,)) == {"i2t_r1": 100.0, "t2i_r1": 100.0}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_recipes_build(path):
    from mmengine.config import Config

    from xmodal.registry import MODELS, build

    cfg = Config.fromfile(path)
    with torch.device("meta"):
        net = build(cfg.model, MODELS)
    part = "head." if "head" in cfg.model else ""  # behind frozen towers the head alone trains
    assert all(p.requires_grad == name.startswith(part) for name, p in net.named_parameters())
    assert cfg.train_dataloader.batch_size > 1


def test_the_center_is_cut_out_for_testing(folder):
    """Of a picture of three colored thirds the middle one is left, whichever way the picture lies."""
    for name, axis in (("wide", 1), ("high", 0)):
        thirds = np.concatenate([np.full((12, 12, 3), v, np.uint8) for v in (10, 120, 240)], axis=axis)
        Image.fromarray(thirds).save(folder / f"{name}.png")
        (folder / "one.jsonl").write_text(json.dumps({"image": f"{name}.png", "caption": "x"}) + "\n")
        assert (CaptionList(str(folder / "one.jsonl"), size=12, test=True)[0]["image"] == 120).all()


def test_the_labels_of_the_shape_world_name_what_is_drawn():
    """Color by color, each with all shapes; 0 is a caption."""
    names = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    assert names == CLASSES
    world = ShapeCaptions(30, labeled=1.0, world=4)
    for i in range(30):
        _, scene = picture(np.random.default_rng([4, i]))
        thing = scene.things[0]
        want = 1 + names.index(f"{thing.color} {thing.shape}") if len(scene.things) == 1 else 0
        sample = world[0, i]
        assert sample["label"] == want
        assert f"{thing.color} {thing.shape}" in sample["caption"] or not want
    assert 5 < (world.labels > 0).sum() < 30
    assert (ShapeCaptions(30, labeled=0.0, world=4).labels == 0).all()


def test_five_samples_may_always_be_unreadable(folder):
    for path in (folder / "classes").rglob("*.png"):
        path.write_bytes(b"")
    test = LabeledFolder(str(folder / "classes"), size=16, test=True)
    assert all("skipped" in test[i] for i in range(5))
    with pytest.raises(ValueError, match="6 of 6 samples cannot be read"):
        test[5]


def test_mixed_sets_draw_with_the_runs_seed_unless_they_say_their_own(folder):
    one = dict(type="labeled_folder", root=str(folder / "classes"), size=16)
    mixed = MixedPairs([one, {**one, "seed": 9}], seed=4)
    assert [d.seed for d in mixed.datasets] == [4, 9]
    assert torch.equal(torch.from_numpy(mixed[1, 7]["image"]), torch.from_numpy(mixed.datasets[1][1, 1]["image"]))


def test_brightness_and_contrast_are_drawn_anew_every_epoch():
    """(1 + g gain) x + s shift, g and s uniform in -1 to 1, then cut off at 0 and 255."""
    things = ShapeThings(3, world=2, gain=0.2, shift=30.0, seed=5)
    for epoch in range(3):
        g, s = np.random.default_rng([5, epoch, 1]).uniform(-1, 1, 2)
        want = np.clip(things.pool.images[1].astype(np.float64) * (1 + 0.2 * g) + 30 * s, 0, 255)
        assert np.allclose(things[epoch, 1]["image"], want, atol=1e-3)
    assert not np.array_equal(things[0, 1]["image"], things[1, 1]["image"])


def test_the_scale_is_bounded_in_its_logarithm(world):
    net = model(max_scale=50.0)
    for value, wanted in ((math.log(20), 20), (math.log(80), 50), (10.0, 50)):
        net.clip.logit_scale.data.fill_(value)
        assert net.log_scale.exp().item() == pytest.approx(wanted, rel=1e-5)
    assert model().max_scale == 100
    net.clip.logit_scale.data.fill_(10.0)
    found = net.train()(mode="loss", **batch_of(net, world, range(8)))
    image = net.clip.encode_image(batch_of(net, world, range(8))["image"], normalize=True)
    text = net.clip.encode_text(net.tokens(batch_of(net, world, range(8))["caption"], None), normalize=True)
    assert image.norm(dim=-1).tolist() == pytest.approx([1] * 8, abs=1e-5)
    label = batch_of(net, world, range(8))["label"]
    torch.testing.assert_close(found["loss"], unicl_loss(image, text, torch.tensor(math.log(50)), label)["loss"])


def test_the_batches_retrieval_is_in_percent_and_an_equal_text_counts():
    net = model(loss="clip")
    net.clip.encode_image = lambda images, normalize: torch.eye(4)
    # images 0 and 1 find each other's text
    net.clip.encode_text = lambda ids, normalize, truncate: torch.eye(4)[[1, 0, 2, 3]]
    images, ids = torch.zeros(4, 3, 48, 48), torch.tensor([[1, 2], [1, 3], [1, 4], [1, 5]])
    assert net.loss(images, ids, None)["top1"].item() == 50
    ids[1] = ids[0]
    assert net.loss(images, ids, None)["top1"].item() == 100


def test_predictions_are_the_softmax_of_scaled_similarities_to_class_texts(world):
    net = model().eval()
    net.clip.logit_scale.data.fill_(math.log(30))
    batch = batch_of(net, world, range(3))
    with torch.no_grad():
        image = net.clip.encode_image(batch["image"], normalize=True)
        ids = net.clip.tokenize([f"a photo of a {name}" for name in CLASSES])
        text = net.clip.encode_text(ids, normalize=True)
        got = net(mode="predict", **batch)
    want = (30 * image @ text.t()).softmax(-1)
    torch.testing.assert_close(torch.stack([p["scores"] for p in got]), want, atol=1e-5, rtol=1e-4)
    assert net(mode="predict", image=None) == []
    assert [p["label"] for p in got] == batch["label"].tolist()
    torch.testing.assert_close(net(**batch), image)
    with pytest.raises(ValueError, match="choose tensor, loss or predict"):
        net(mode="predicted", **batch)


def test_the_classifier_follows_the_weights_after_training_and_classes_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("red ring\n\nblue star\n")
    net = ContrastiveModel(tiny_clip("random"), classes=str(tmp_path / "names.txt")).eval()
    before = net.classifier()
    assert before.shape[0] == 2
    assert net.classes == ["red ring", "blue star"]
    assert net.classifier() is before
    net.train()
    for p in net.clip.text.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    assert (net.eval().classifier() - before).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("training", [True, False])
def test_chunks_of_features_are_unit_vectors_in_order(chunk, training):
    net, images = model(chunk=chunk), torch.randn(7, 3, 48, 48)
    with torch.set_grad_enabled(training):
        got = net.in_chunks(net.clip.encode_image, images)
    want = net.clip.visual(images)
    torch.testing.assert_close(got, want / want.norm(dim=-1, keepdim=True), atol=1e-5, rtol=1e-4)
    assert got.requires_grad == training


def test_retrieval_counts_a_hit_up_to_each_rank_both_ways():
    image, text = torch.eye(4), torch.tensor([[0.9, 1, 0, 0], [1, 0.8, 0.9, 0], [0, 0.2, 0.5, 1], [0, 0, 0.4, 0.3]])
    # image i sees column i: ranks of its own text are 2, 2, 2, 2; text i sees row i: its own image's ranks 2, 3, 2, 2
    got = retrieval(image, text, at=(1, 2, 3))
    assert got == {"i2t_r1": 0, "i2t_r2": 100, "i2t_r3": 100, "t2i_r1": 0, "t2i_r2": 75, "t2i_r3": 100}
    several = torch.tensor([[1, 1, 0], [0, 0, 1]], dtype=torch.bool)  # image 0 belongs to two texts
    similar = torch.tensor([[0.1, 0.9], [0.8, 0.3], [0.5, 0.2]])
    got = retrieval(torch.eye(2), similar, several, at=(1, 2))
    assert got["i2t_r1"] == 50  # image 0 finds text 1; image 1 finds text 0, which is not its own
    assert got["t2i_r1"] == pytest.approx(100 / 3)  # text 0 finds image 1, text 1 image 0 as it should, text 2 image 0
    assert got["i2t_r2"] == 50
    with pytest.raises(ValueError, match="2 images and 3 texts"):
        retrieval(torch.eye(2), similar)
