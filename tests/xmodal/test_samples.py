"""Samples held in tensors: the same as a list of them, shared by workers."""

import io
import os
import pickle
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler

import pytest

from video.annotations import VIDEOS
from video.datasets import VideoDataset
from xmodal.data.broken import home_of
from xmodal.data.samples import Paths, Sample, Samples

ODD = [
    Sample("/data/a b.mp4", 3, "a b.mp4"),
    Sample("/data/täglich/\udcff.mp4", 0, "täglich/\udcff.mp4"),  # a name that is no UTF-8
    Sample("/data/x/abc_000.mp4", -1, "abc_000"),  # not the end of the path
    Sample("/data/last.mp4", 2**40, "/data/last.mp4"),
    Sample("", 1, ""),
]
SEVERAL = [Sample.several("a", [4, 2], "a"), Sample.several("b", [], "b"), Sample("c", 7, "c"), Sample("d", -1, "d")]


@pytest.mark.parametrize("given", [ODD, SEVERAL, ODD + SEVERAL, []], ids=["odd", "several", "mixed", "none"])
def test_samples_are_those_of_a_list(given):
    held = Samples(given)
    assert list(held) == given == held
    assert [held[i] for i in range(-len(given), len(given))] == given * 2
    assert held[1:] == given[1:]
    assert held[::-2] == given[::-2]
    assert held.labels() == [s.label if s.labels is None else s.labels for s in given]
    assert held.multilabel == any(s.labels is not None for s in given)
    assert held.unlabeled == any(s.labels is None and s.label < 0 for s in given)
    assert held.num_classes == max([0, *(1 + max(s.labels or (s.label,)) for s in given)])
    assert list(Paths(held)) == [s.path for s in given]
    assert Paths(held)[1:3] == [s.path for s in given[1:3]]
    assert Samples.of(held) is held
    with pytest.raises(IndexError):
        held[len(given)]
    if given:
        assert held != given[:-1]
        assert held != [*given[:-1], Sample("other", 0, "other")]
    assert list(pickle.loads(pickle.dumps(held))) == given


def test_all_of_many_samples_are_gone_through(monkeypatch):
    monkeypatch.setattr("xmodal.data.samples.CHUNK", 7)
    given = [Sample(f"/r/{i}.mp4", i % 5, f"{i}.mp4") for i in range(50)]
    assert list(Samples(given)) == given
    assert list(Paths(Samples(given))) == [s.path for s in given]


def test_classes_are_renumbered_and_none_stays_none():
    new = Samples([*SEVERAL]).renumbered([9, 8, 7, 6, 5, 4, 3, 2])
    assert [(s.label, s.labels) for s in new] == [(7, (5, 7)), (-1, ()), (2, None), (-1, None)]


def listed(folder, lines):
    (folder / "v0.mp4").write_bytes(b"")
    path = folder / "list.txt"
    path.write_text("".join(f"v{i}.mp4 {i % 7}\n" for i in range(lines)))
    return path


def test_reading_a_list_asks_the_disk_for_its_first_files_only(tmp_path, monkeypatch):
    asked = []
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: asked.append(path) or exists(path))
    assert len(VIDEOS.read(listed(tmp_path, 1000)).samples) == 1000
    assert len(asked) <= 20


@pytest.mark.parametrize("lines", [100, 20_000])
def test_a_spawned_worker_gets_no_copy_of_the_list(tmp_path, lines):
    data = VideoDataset(listed(tmp_path, lines), num_frames=2)
    sent = io.BytesIO()
    ForkingPickler(sent).dump(data)
    assert len(sent.getvalue()) < 20_000
    assert data.samples._text.is_shared()


def looked_up(data, queue):
    queue.put((len(data), data.samples[-1], data.sample_id(3), data.file_names[5]))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_list(tmp_path, context):
    data = VideoDataset(listed(tmp_path, 500), num_frames=2)
    start = get_context(context)
    queue = start.Queue()
    worker = start.Process(target=looked_up, args=(data, queue))
    worker.start()
    found = queue.get(timeout=120)
    worker.join()
    last = Sample(str(tmp_path / "v499.mp4"), 499 % 7, "v499.mp4")
    assert found == (500, last, "v3.mp4", str(tmp_path / "v5.mp4"))


def test_a_list_takes_little_more_memory_than_its_text(tmp_path):
    path = listed(tmp_path, 20_000)
    held = VIDEOS.read(path).samples
    tensors = [x for x in vars(held).values() if hasattr(x, "untyped_storage")]
    size = sum(x.untyped_storage().nbytes() for x in tensors)
    assert size < sum(len(s.path) for s in held) + 40 * len(held)


@pytest.mark.parametrize("names", [("a/b/x", "a/b/c/y"), ("a/x", "a-b/x", "a/c/y"), ("a/b/x",), ()])
def test_the_home_of_files_is_the_folder_of_all(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if not (tmp_path / name).is_dir():
            (tmp_path / name).write_text("")
    want = os.path.commonpath([os.path.dirname(os.path.abspath(n)) for n in names]) if names else ""
    assert home_of(names) == want
