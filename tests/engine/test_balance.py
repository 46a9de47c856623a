"""Classes out of balance, and multi-label sets, in a run."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.engine.test_finetune import config
from xmodal.engine import launch


def uneven(folder):
    path = config(folder, ["a", "b"], "a.py")
    for i in range(6):
        shutil.copy(folder / "a" / "a" / "0.png", folder / "a" / "a" / f"more {i}.png")
    return path


def run(folder, path, *options):
    return launch.train(launch.prepare(path, str(folder / "w"), options))


def test_classes_out_of_balance_are_said_once_unless_weighed(tmp_path, capsys):
    path = uneven(tmp_path)
    run(tmp_path, path)
    said = capsys.readouterr().out
    assert said.count("classes are out of balance: 8 of a, 2 of b; look at mean_class") == 1
    runner = run(tmp_path / "2", path, "model.head.class_weights=balanced")
    assert "out of balance" not in capsys.readouterr().out
    assert runner.model.head.weights.tolist() == pytest.approx([10 / 16, 10 / 4])
    runner = run(tmp_path / "3", path, "train_dataloader.balanced=true")
    assert "out of balance" not in capsys.readouterr().out
    chances = runner.train_dataloader.sampler.chances
    assert sum(chances[:8]) == pytest.approx(0.5)


def test_balanced_sampling_is_for_training_alone(tmp_path):
    with pytest.raises(ValueError, match="balanced"):
        run(tmp_path, uneven(tmp_path), "val_dataloader.balanced=true")


def tags(folder):
    folder.mkdir()
    text = "path,labels\n"
    for i in range(8):
        Image.fromarray(np.full((48, 48, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
        text += f"{i}.png,{('x;y', 'y', 'x', '')[i % 4]}\n"
    (folder / "tags.csv").write_text(text)
    return folder / "tags.csv"


def test_a_multi_label_set_trains_with_its_head_and_is_refused_with_another(tmp_path):
    path = config(tmp_path, ["a", "b"], "a.py")
    data = [f"{stage}_dataloader.dataset.annotation={tags(tmp_path / 'tags')}" for stage in ("train",)]
    data += [f"val_dataloader.dataset.annotation={tmp_path / 'tags/tags.csv'}", "default_hooks.checkpoint.best=mAP"]
    with pytest.raises(ValueError, match=r"several classes a sample: set model.head.type to MultiLabelHead"):
        run(tmp_path, path, *data)
    head, metric = "xmodal.heads.multilabel.MultiLabelHead", "xmodal.multilabel.MultiLabelMetric"
    run(tmp_path, path, *data, f"model.head.type={head}", f"val_evaluator.type={metric}")
    assert (tmp_path / "w" / "best.pth").exists()
    with pytest.raises(ValueError, match=r"one class a sample: set model.head.type to ClassificationHead"):
        run(tmp_path / "x", path, f"model.head.type={head}", f"val_evaluator.type={metric}")


def test_a_multi_label_set_trains_from_the_cache(tmp_path):
    path = config(tmp_path, ["a", "b"], "a.py")
    data = [f"train_dataloader.dataset.annotation={tags(tmp_path / 'tags')}"]
    data += [f"val_dataloader.dataset.annotation={tmp_path / 'tags/tags.csv'}", "default_hooks.checkpoint.best=mAP"]
    data += ["model.head.type=xmodal.heads.multilabel.MultiLabelHead", "model.adapters=[]"]
    data += ["val_evaluator.type=xmodal.multilabel.MultiLabelMetric"]
    data += ["cache.views=1", f"cache.root={tmp_path / 'cache'}"]
    run(tmp_path, path, *data)
    assert (tmp_path / "w" / "best.pth").exists()
