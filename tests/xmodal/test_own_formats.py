"""Tables, frame folders and multi-label sets, class weights and balanced sampling."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.utils.class_weight import compute_class_weight

from video.annotations import VIDEOS
from video.datasets import VideoDataset
from video.decode import VideoError
from video.frames import FrameFolder, frames_in, is_frame_folder, open_video
from video.sampling import UniformSampling
from xmodal.data.annotations import IMAGES, Sample, write_list
from xmodal.data.broken import LabeledFiles
from xmodal.data.images import ImageDataset
from xmodal.data.sampler import EpochSampler, StreamSampler, balanced_chances
from xmodal.data.transforms import HorizontalFlip
from xmodal.heads.classification import ClassificationHead
from xmodal.heads.multilabel import MultiLabelHead
from xmodal.multilabel import MultiLabelMetric, average_precision


def picture(path, value=0, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def frames(folder, count=6, start=1, prefix="img_", size=(12, 10)):
    for i in range(count):
        picture(folder / f"{prefix}{start + i:05d}.png", 10 * i, size)
    return folder


@pytest.mark.parametrize(
    ("text", "labels", "classes"),
    [
        ("path,label\na.png,cat\nb.png,dog\n", [0, 1], ["cat", "dog"]),
        ("file;class\na.png;1\nb.png;0\n", [1, 0], None),
        ("Label\tVideo\ncat\ta.png\nant\tb.png\n", [1, 0], ["ant", "cat"]),
        ('filename,category,split\n"a.png",x y,train\nb.png,x_z,val\n', [0, 1], ["x y", "x_z"]),
        ("id,label\na,cat\nb,cat\n", [0, 0], ["cat"]),  # without endings
    ],
)
def test_tables_with_a_head_line(tmp_path, text, labels, classes):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "own.csv").write_text(text)
    listing = IMAGES.read(tmp_path / "own.csv")
    assert [s.label for s in listing.samples] == labels
    assert listing.classes == classes
    assert not listing.multilabel
    assert [s.path for s in listing.samples] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("path,size\na.png,5x5\n", "no column of labels"),
        ("label,split\ncat,train\n", "expected `path label`"),  # not a table of files
        ("path,label\n,cat\n", "own.csv:2: no path"),
    ],
)
def test_tables_that_cannot_be_understood(tmp_path, text, word):
    picture(tmp_path / "a.png")
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(ValueError, match=word):
        IMAGES.read(tmp_path / "own.csv")


@pytest.mark.parametrize(
    "text",
    [
        "path,labels\na.png,x;z\nb.png,y\nc.png,\n",
        "path,labels\na.png,z|x\nb.png,y\nc.png,\n",
        "path,x,y,z\na.png,1,0,1\nb.png,0,1,0\nc.png,0,0,0\n",
    ],
)
def test_tables_of_several_labels(tmp_path, text):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "own.csv").write_text(text)
    data = ImageDataset(tmp_path / "own.csv")
    assert data.multilabel
    assert data.classes == ["x", "y", "z"]
    assert data.labels == [(0, 2), (1,), ()]
    assert [data[0, i]["label"].tolist() for i in range(3)] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    data.adopt_classes(["z", "y", "x", "w"])
    assert data[0, 0]["label"].tolist() == [1, 0, 1, 0]
    write_list(tmp_path / "kept.txt", data.samples)
    again = ImageDataset(tmp_path / "kept.txt", classes=["z", "y", "x", "w"])
    assert again.labels == data.labels


def test_lists_of_several_labels(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "own.txt").write_text("a.png 0;2\nb.png 1\nc.png\t;\n")
    assert ImageDataset(tmp_path / "own.txt").labels == [(0, 2), (1,), ()]
    assert ImageDataset(tmp_path / "own.txt").num_classes == 3
    with pytest.raises(ValueError, match="label 2, but there are 2 classes"):
        ImageDataset(tmp_path / "own.txt", classes=["x", "y"])
    flip = HorizontalFlip(prob=1.0, label_pairs=[(0, 1)])
    assert flip(torch.zeros(1, 3, 2, 2), (0, 2), np.random.default_rng(0))[1] == (1, 2)


def test_frame_folders_are_videos(tmp_path):
    for label in "ab":
        for clip in range(2):
            frames(tmp_path / label / f"clip {clip}")
    listing = VIDEOS.read(tmp_path)
    assert [s.sample_id for s in listing.samples] == ["a/clip 0", "a/clip 1", "b/clip 0", "b/clip 1"]
    data = VideoDataset(tmp_path, num_frames=3, sampling=dict(type=UniformSampling), size=10, test_mode=True)
    item = data[0]
    assert item["clips"].shape == (1, 3, 3, 10, 10)
    assert item["clips"][0, :, 0, 0, 0].tolist() == [10 * i for i in data.sampling.test(6)[0]]
    (tmp_path / "list.txt").write_text("a/clip 0 6 1\nb/clip 1 0\n")  # with the number of frames, and without
    assert [(s.path, s.label) for s in VIDEOS.read(tmp_path / "list.txt").samples] == [
        (str(tmp_path / "a/clip 0"), 1), (str(tmp_path / "b/clip 1"), 0),
    ]  # fmt: skip


def test_frames_come_in_the_order_of_their_numbers_without_the_flow(tmp_path):
    for i in (1, 2, 10):
        picture(tmp_path / "v" / f"img_{i}.png", i)
        picture(tmp_path / "v" / f"flow_x_{i}.png", 100 + i)
        picture(tmp_path / "v" / f"flow_x_{i + 20}.png", 100 + i)
    assert [p.rsplit("/", 1)[1] for p in frames_in(tmp_path / "v")] == ["img_1.png", "img_2.png", "img_10.png"]
    with open_video(tmp_path / "v") as video:
        assert isinstance(video, FrameFolder)
        assert (video.num_frames, video.size, video.codec) == (3, (12, 10), "png")
        assert video.read([2, 0, 2])[:, 0, 0, 0].tolist() == [10, 1, 10]
        with pytest.raises(IndexError):
            video.read([3])
    assert not is_frame_folder(tmp_path)


def test_a_broken_frame_is_a_broken_video(tmp_path):
    folder = frames(tmp_path / "v")
    (folder / "img_00003.png").write_bytes(b"torn")
    with pytest.raises(VideoError, match="img_00003"):
        FrameFolder(folder).read([0, 2])
    picture(folder / "img_00003.png", size=(30, 30))
    with pytest.raises(VideoError, match="another size"):
        FrameFolder(folder).read([0, 2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="no numbered images"):
        FrameFolder(tmp_path / "empty")


def test_average_precision_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        present = rng.random(30) < 0.3
        present[0] = True
        scores = rng.integers(0, 8, 30) / 8  # ties
        assert average_precision(scores, present) == pytest.approx(average_precision_score(present, scores))


def test_multi_label_metric():
    metric = MultiLabelMetric()
    metric.dataset_meta = {"classes": ["x", "y", "z"]}
    rows = [([0.9, 0.2, 0.1], [1, 0, 0]), ([0.8, 0.6, 0.1], [0, 1, 0]), ([0.1, 0.7, 0.1], [0, 0, 0])]
    samples = [{"sample_id": str(i), "scores": torch.tensor(s), "label": y} for i, (s, y) in enumerate(rows)]
    metric.process({"skipped": [{"sample_id": "s", "reason": "r"}]}, samples)
    found = metric.evaluate(4)
    assert found["per_class"] == [100, 50, None]
    assert found["mAP"] == 75
    assert found["f1"] == pytest.approx(100 * 2 * 2 / (4 + 2))  # two hits of four found and two present
    assert found["exact"] == pytest.approx(100 / 3)
    assert (found["evaluated"], found["of"], len(found["skipped"])) == (3, 4, 1)


def test_multi_label_head_is_the_binary_loss():
    head = MultiLabelHead(4, num_classes=3)
    feature, label = torch.randn(5, 4), torch.randint(0, 2, (5, 3)).float()
    logits = head(feature)
    by_hand = -(label * logits.sigmoid().log() + (1 - label) * (1 - logits.sigmoid()).log()).mean()
    assert head.loss(feature, label)["loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    torch.testing.assert_close(head.predict(feature), logits.sigmoid())
    with pytest.raises(ValueError, match=r"multi-label head wants \(B, 3\)"):
        head.loss(feature, torch.tensor([0, 1, 2, 0, 1]))
    weighted = MultiLabelHead(4, num_classes=3, class_weights="balanced")
    weighted.weigh(torch.tensor([1, 2, 0]), 4)
    assert weighted.weights.tolist() == [3, 1, 4]


def test_balanced_class_weights_are_those_of_scikit_learn():
    labels = [0] * 6 + [1] * 3 + [2]
    head = ClassificationHead(4, num_classes=3, class_weights="balanced")
    head.weigh(torch.bincount(torch.tensor(labels)), len(labels))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert head.weights.tolist() == pytest.approx(expected.tolist())
    feature, label = torch.randn(10, 4), torch.tensor(labels)
    whole = head.loss(feature, label)["loss"]
    losses = torch.nn.functional.cross_entropy(head(feature), label, reduction="none")
    assert whole.item() == pytest.approx((head.weights[label] * losses).mean().item())
    parts = [0.6 * head.loss(feature[:6], label[:6])["loss"], 0.4 * head.loss(feature[6:], label[6:])["loss"]]
    assert sum(parts).item() == pytest.approx(whole.item())  # a batch in parts has the same loss
    with pytest.raises(ValueError, match="2 class_weights for num_classes=3"):
        ClassificationHead(4, num_classes=3, class_weights=[1.0, 2.0])
    assert "weights" not in ClassificationHead(4, num_classes=2, class_weights=[1.0, 2.0]).state_dict()


def test_balanced_sampling_draws_classes_equally_often():
    labels = [0] * 90 + [1] * 10
    chances = balanced_chances(labels)
    sampler = EpochSampler(100, seed=3, chances=chances)
    drawn = []
    for epoch in range(20):
        sampler.seek(epoch)
        drawn += [labels[i] for _, i in sampler]
    assert 0.45 < np.mean(drawn) < 0.55
    sampler.seek(4, start=60)
    tail = list(sampler)
    sampler.seek(4)
    assert list(sampler)[60:] == tail  # resumable at any step
    stream = StreamSampler(100, 500, seed=3, chances=chances)
    assert 0.4 < np.mean([labels[i] for _, i in stream]) < 0.6
    several = balanced_chances([(0,), (0, 1), (0,), ()])
    assert several[1] == several.max()
    assert several.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="needs labels"):
        balanced_chances([])


def test_numbers_of_classes_follow_the_names_in_multi_label_sets():
    data = LabeledFiles([Sample.several("a", (0, 1), "a")], ["x", "y"], "s", False, 0, 0.1)
    data.adopt_classes(["y", "n", "x"])
    assert data.labels == [(0, 2)]
    assert data.num_classes == 3
