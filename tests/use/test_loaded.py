"""`xmodal.load`: the same answers as the test of a run, in batches, from threads, whatever lies among the files."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import xmodal
from tests.use.conftest import names_below
from xmodal.data.collate import collate
from xmodal.data.loader import build_dataset
from xmodal.engine import launch
from xmodal.engine.predict import ahead
from xmodal.engine.sizes import sized


def answers_of_the_test(run, tmp_path):
    """What the test of a run says of its samples, and their files."""
    cfg = launch.prepare(str(run / "best.pth"), str(tmp_path / "w"))
    cfg.test_evaluator["dump"] = str(tmp_path / "dump.npz")
    cfg.test_dataloader.num_workers = 0
    launch.evaluate(cfg, str(run / "best.pth"))
    return np.load(tmp_path / "dump.npz")


def test_videos_are_answered_as_the_test_answers_them(video_run, clips, tmp_path):
    model = xmodal.load(video_run / "best.pth")
    assert model.kind == "video"
    assert model.classes == (clips / "classes.txt").read_text().split("\n")[:8]
    truth = answers_of_the_test(video_run, tmp_path)
    rows = model.predict(clips / "clips" / "test")
    assert [row["file"] for row in rows] == names_below(clips / "clips" / "test", ".mp4")
    by_name = {str(n): s for n, s in zip(truth["sample_id"], truth["scores"], strict=True)}
    for row in rows:
        name = row["file"][len(str(clips)) + 1 :]
        np.testing.assert_allclose(row["scores"], by_name[name], atol=1e-5)
        assert row["label"] == int(np.argmax(by_name[name]))
        assert row["name"] == model.classes[row["label"]]
        assert len(row["top"]) == 5
    assert all(len(row["top"]) <= 2 for row in model.predict(clips / "clips" / "test", top=2))


def test_images_from_a_work_directory_a_pair_and_a_list(image_run, pictures, tmp_path, monkeypatch):
    files = names_below(pictures / "val", ".png")
    model = xmodal.load(image_run)
    assert model.kind == "image"
    rows = model.predict([pictures / "val"])
    assert sorted(row["file"] for row in rows) == files
    pair = xmodal.load(
        (image_run.parent / "shapes.py", image_run / "best.pth"), options=["val_dataloader.batch_size=3"]
    )
    assert pair.predict([str(pictures / "val")]) == rows
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in files))
    assert model.predict(str(tmp_path / "list.txt")) == rows
    with pytest.raises(ValueError, match=r"no checkpoint at 'run/best\.pth'"):
        xmodal.load("run/best.pth")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"no checkpoint at 'user/name'.*huggingface\.co"):
        xmodal.load("user/name")


def test_a_name_of_the_hub(image_run, pictures, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(image_run)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert xmodal.load("user/shapes").classes == ["circle", "square"]
    assert asked == [("user/shapes", ["best.pth", "last.pth"])]


@pytest.mark.parametrize("readers", [0, 2])
def test_one_bad_file_costs_no_other_its_answer(image_run, pictures, tmp_path, readers):
    files = names_below(pictures / "val", ".png")
    (tmp_path / "torn.png").write_bytes(Path(files[0]).read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    named = [files[0], str(tmp_path / "torn.png"), *files[1:4], "none.png", str(tmp_path / "text.png"), files[4]]
    model = xmodal.load(image_run)
    model.predictor.readers = readers
    rows = model.predict(named)
    assert [row["file"] for row in rows] == named
    assert [i for i, row in enumerate(rows) if "error" in row] == [1, 5, 6]
    assert rows[5]["error"] == "no file at none.png"
    alone = [model.predict([file])[0] for file in files[:5]]
    for row, one in zip([r for r in rows if "error" not in r], alone, strict=True):
        np.testing.assert_allclose(row["scores"], one["scores"], atol=1e-5)


def test_a_failing_batch_is_computed_one_by_one(image_run, pictures):
    model = xmodal.load(image_run)
    files, real = names_below(pictures / "val", ".png"), model.predictor.scores

    def fail(batch):
        if files[2] in batch["sample_id"]:
            raise RuntimeError("no good\nat all")
        return real(batch)

    model.predictor.scores = fail
    rows = model.predict(files)
    assert [row.get("error") for row in rows] == [None, None, "RuntimeError: at all", *[None] * 5]


def test_threads_get_what_one_gets(image_run, pictures):
    model = xmodal.load(image_run)
    files = names_below(pictures, ".png")
    alone, found = model.predict(files), {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: model.predict(files)})) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(6)] == [alone] * 6


def test_features_are_what_the_head_is_given(video_run, clips, tmp_path):
    model = xmodal.load(video_run)
    files = names_below(clips / "clips" / "val", ".mp4")[:5]
    (tmp_path / "torn.mp4").write_bytes(b"torn")
    found = model.features([*files[:2], str(tmp_path / "torn.mp4"), *files[2:]])
    assert found.files == files
    assert list(found.errors) == [str(tmp_path / "torn.mp4")]
    assert found.values.shape == (5, model.model.reader.out_dim)
    head = model.model.head
    data = build_dataset(sized({**model.config.val_dataloader.dataset, "test_mode": True}, 48))
    batch = model.model.data_preprocessor(collate([data[i] for i in range(5)]))
    with torch.no_grad():
        wanted = head.predict(model.model.features(clips=batch["clips"]))
        torch.testing.assert_close(head.predict(found.values), wanted)


def test_clouds_without_files_written(cloud_run, clouds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = xmodal.load(cloud_run)
    assert model.kind == "cloud"
    np.save(tmp_path / "torn.npy", np.zeros((0, 3)))
    rows = model.predict([clouds / "val", "torn.npy"])
    assert len(rows) == 9
    assert "error" in rows[-1]
    truth = answers_of_the_test(cloud_run, tmp_path)
    by_name = {
        str(n).split("/")[-2] + "/" + str(n).split("/")[-1]: s
        for n, s in zip(truth["sample_id"], truth["scores"], strict=True)
    }
    for row in rows[:8]:
        name = "/".join(row["file"].split("/")[-2:])
        np.testing.assert_allclose(row["scores"], by_name[name], atol=0.05)  # the test draws other points
        assert "page" not in row
    assert not (tmp_path / "predictions").exists()
    found = model.features(clouds / "val")
    assert len(found.files) == len(found.values) == 8


def test_reading_goes_on_while_the_last_batch_is_computed():
    def read(number):
        time.sleep(0.05)
        return number * 10

    start, seen = time.monotonic(), []
    for number, result in ahead(read, range(12), 2, 4):
        time.sleep(0.05)
        seen.append((number, result))
    assert time.monotonic() - start < 0.9 * 12 * 0.1
    assert seen == [(i, 10 * i) for i in range(12)]


def test_no_more_is_read_ahead_than_allowed():
    asked = []
    results = ahead(asked.append, range(100), 2, 3)
    next(results)
    time.sleep(0.1)
    results.close()
    assert len(asked) <= 4
