"""Work directories and checkpoints hold the config of their run; reading it back runs no code."""

from pathlib import Path

import pytest
from mmengine.config import Config

from tests.engine.toy import CONFIG, write_config
from tests.test_configs import CONFIGS
from tests.tools.test_train_tools import tool
from xmodal.engine import launch
from xmodal.engine.checkpoint import read, write
from xmodal.engine.config import load_config
from xmodal.engine.stored_config import config_of, is_part, parse, text_of
from xmodal.use.loaded import kind_of

OWN = [p for p in CONFIGS if p.parent.name in ("video", "image", "pointcloud", "pretrain")]


@pytest.mark.parametrize("path", OWN, ids=lambda p: p.stem)
def test_every_shipped_config_comes_back(path):
    cfg = load_config(path)
    back = config_of({"config_text": text_of(cfg), "config": path.stem}, "x.pth")
    for key in {"model", "val_dataloader", "test_evaluator", "optim_wrapper"} & cfg.keys():
        assert Config({key: back[key]}).pretty_text == Config({key: cfg[key]}).pretty_text
    assert Path(back.filename).stem == path.stem


@pytest.mark.parametrize(
    "text",
    [
        "model = dict(type='os.system', command='touch PLACE')",
        "model = dict(type='xmodal.TransferModel', encoder=dict(type='subprocess.call', args=['touch', 'PLACE']))",
        "model = dict(type='xmodal.atomic.write_text', path='PLACE', text='x')",
        "model = dict(type='torch.load', f='x')",
        "test_dataloader = dict(dataset=dict(type='video', annotation='x', format='os.system'))",
        "import os\nos.system('touch PLACE')",
        "model = __import__('os').system('touch PLACE')",
        "model = [x for x in ().__class__.__base__.__subclasses__()]",
        "model = dict(**{'type': 'os.system'})",
        "model = " + "[" * 5000 + "]" * 5000,
    ],
)
def test_a_config_from_a_stranger_runs_nothing(text, tmp_path):
    place = tmp_path / "place"
    with pytest.raises(ValueError, match="give the config file in front"):
        config_of({"config_text": text.replace("PLACE", str(place))}, "x.pth")
    assert not place.exists()


def test_parts_are_told_from_other_names():
    assert is_part("xmodal.model.TransferModel")
    assert is_part("video.st_adapter.st_adapter")
    assert is_part("torch.optim.AdamW")
    assert not is_part("xmodal.atomic.write_text")
    assert not is_part("xmodal.engine.launch.os")
    assert not is_part("xmodal.engine.loops.keep_bad_step")
    assert not is_part("torch.optim.swa_utils.deepcopy")
    assert not is_part("torch.hub.load")
    assert not is_part("tests.engine.toy.ToyModel")
    assert parse("a = dict(b=(1, -2.5), c=[inf, None], d={'e': True})") == {
        "a": {"b": (1, -2.5), "c": [float("inf"), None], "d": {"e": True}}
    }


def test_a_work_directory_holds_the_config_that_was_run(tmp_path, capsys):
    config = write_config(tmp_path)
    launch.train(launch.prepare(config, str(tmp_path / "w"), ["model.dropout=0.1", "train_cfg.max_epochs=2"]))
    kept = tmp_path / "w" / "config.py"
    before = kept.read_bytes()
    cfg = load_config(kept)
    assert (cfg.model.dropout, cfg.train_cfg.max_epochs, cfg.val_dataloader.batch_size) == (0.1, 2, 4)
    assert "test_dataloader" in cfg  # the run itself leaves it out
    assert tool("test")([str(kept), str(tmp_path / "w" / "best.pth"), "--cfg-options", "test_cfg.amp=none"]) == 0
    assert kept.read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "w").glob("*.py")) == ["config.py"]
    printed = launch.prepare(str(kept))
    assert printed.work_dir == "work_dirs/w"  # not work_dirs/config
    assert launch.train(launch.prepare(str(kept), str(tmp_path / "again"))).iter == 10


def test_tools_take_the_config_of_a_checkpoint(tmp_path, capsys):
    from xmodal.registry import DATASETS, MODELS  # toys are registered by name, so they count as parts

    text = CONFIG.replace("type=ToyModel", "type='toy'").replace("type=ToyData", "type='toy_data'")
    assert {"toy"} <= MODELS.module_dict.keys()
    assert {"toy_files"} <= DATASETS.module_dict.keys()
    text += "\ntest_dataloader = dict(batch_size=2, dataset=dict(type='toy_files', annotation='none'))\n"
    config = write_config(tmp_path, text)
    launch.train(launch.prepare(config, str(tmp_path / "w")))
    best = str(tmp_path / "w" / "best.pth")
    (tmp_path / "a.txt").write_text("1.5")
    (tmp_path / "b.txt").write_text("-1")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    for words in ([best, files[0]], [best, *files], [config, best, *files]):
        assert tool("predict")([*words, "--json"]) == 0
        assert '"class ' in capsys.readouterr().out
    options = ["--cfg-options", "test_dataloader.dataset.type=toy_data"]
    loaded = load_config(best)
    assert loaded.test_dataloader.dataset.annotation == "none"
    assert tool("test")([best, *options]) == 2  # toy_data takes no annotation
    assert "annotation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "dataset", "kind"),
    [
        ("xmodal.model.TransferModel", "images", "image"),
        ("transfer", "video", "video"),
        ("transfer", "xmodal.data.images.ImageDataset", "image"),
        ("pointcloud.model.CloudModel", "own_clouds", "cloud"),
    ],
)
def test_the_models_of_a_stored_config_are_told_apart(model, dataset, kind):
    data = {"test_dataloader": {"dataset": {"type": dataset}}}
    assert kind_of(Config({"model": {"type": model}, **data})) == kind
    if kind != "cloud":
        with pytest.raises(ValueError, match="the config defines no test_dataloader"):
            kind_of(Config({"model": {"type": model}}))


def test_a_checkpoint_without_a_config_says_what_to_do(tmp_path, capsys):
    launch.train(launch.prepare(write_config(tmp_path), str(tmp_path / "w")))
    content = read(tmp_path / "w" / "best.pth")
    del content["meta"]["config_text"]
    write(tmp_path / "old.pth", content)
    assert tool("test")([str(tmp_path / "old.pth")]) == 2
    assert "old.pth holds no config" in capsys.readouterr().err
    assert tool("test")([str(tmp_path / "w" / "best.pth")]) == 2  # its model is a class of this test suite
    assert "tests.engine.toy.ToyModel" in capsys.readouterr().err
    (tmp_path / "junk.pth").write_bytes(b"junk")
    assert tool("test")([str(tmp_path / "junk.pth")]) == 2
    assert "junk.pth" in capsys.readouterr().err
