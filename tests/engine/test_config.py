"""Configs: misspelt keys are errors, with the nearest word."""

from pathlib import Path

import pytest

from tests.engine.toy import CONFIG, write_config
from xmodal import registry
from xmodal.engine import launch
from xmodal.engine.config import load_config, parse_value
from xmodal.registry import DATASETS, TRANSFORMS, build, did_you_mean

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optim_wrapper =", "optim_wraper =", "'optim_wraper' is read by nothing; did you mean 'optim_wrapper'"),
        ("_size = 24", "_size = 24\nsize = 3", "'size' is read by nothing"),
        ("model = dict", "_model = dict", "defines no model"),
    ],
)
def test_top_level_keys(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        load_config(write_config(tmp_path, CONFIG.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dropout=0.3", "dropuot=0.3", "ToyModel has no argument 'dropuot'; did you mean 'dropout'"),
        ("batch_size=5", "batchsize=5", "did you mean 'batch_size'"),
        ("batch_size=5, ", "", "needs batch_size"),
        ("batch_size=5", "batch_size=5, shuffle=True", "cannot set 'shuffle'"),
        ("size=_size", "sise=_size", "ToyData has no argument 'sise'"),
        ("warmup_epochs", "warmup_epoch", "CosineSchedule has no argument 'warmup_epoch'; did you mean"),
        ("weight_decay", "wieght_decay", "AdamW has no argument"),
        ("no_decay", "nodecay", "did you mean 'no_decay'"),
        ("val_interval", "val_intervall", "TrainLoop has no argument 'val_intervall'; did you mean 'val_interval'"),
        ("max_epochs=4", "max_epochs=4, max_steps=3", "max_epochs or max_steps"),
        ("interval=1)", "intervall=1)", "ProgressHook has no argument 'intervall'; did you mean 'interval'"),
        ("paramwise_cfg", "accumulative_counts=2, paramwise_cfg", "batch_split=2"),
        ('"progress"', '"progres"', "did you mean|not in the"),
    ],
)
def test_nested_arguments(tmp_path, old, new, message):
    with pytest.raises((ValueError, KeyError), match=message):
        launch.train(launch.prepare(write_config(tmp_path, CONFIG.replace(old, new)), str(tmp_path / "w")))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("optim_wraper.optimizer.lr=3", "no optim_wraper; did you mean 'optim_wrapper'"),
        ("optim_wrapper.optimzer.lr=3", "no optim_wrapper.optimzer; did you mean 'optimizer'"),
        ("optim_wrapper.optimizer.lrr=3", "AdamW has no argument 'lrr'; did you mean 'lr'"),
        ("modell.dim=3", "did you mean 'model'"),
        ("seed=3", "'seed' is read by nothing"),
        ("model.dropout.x=3", "holds 0.3"),
        ("model", "takes key.path=value"),
        ("model.dim=wide", "ToyModel: dim='wide', expected int"),
        ("model.dim=6.5", r"ToyModel: dim=6\.5, expected int"),
        ("model.dropout=none.5", "dropout='none.5', expected float"),
        ("train_dataloader.batch_size=five", "train_dataloader.batch_size='five', expected a number; the config has 5"),
        ("optim_wrapper.optimizer.lr=nan", r"optim_wrapper\.optimizer\.lr='nan', expected a number"),
        ("randomness.seed=abc", r"randomness\.seed='abc', expected a number; the config has 0"),
        ("custom_hooks=5", "custom_hooks=5, expected a list$"),
        ("env_cfg=5", "env_cfg=5, expected a dict$"),
        ("load_from=3", "load_from=3, expected text$"),
        ("resume=maybe", "resume='maybe', expected true or false$"),
        ("default_hooks.nothing=1", "default_hooks.nothing=1, expected a dict, or none to leave the hook out$"),
        ("train_dataloader.dataset=5", r"train_dataloader\.dataset=5, expected a dict"),
        ("optim_wrapper.paramwise_cfg.no_decay=5", r"no_decay=5, expected a list; the config has \['\.bias'\]"),
    ],
)
def test_options_that_are_not_there(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        load_config(write_config(tmp_path), [option])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size=5", "batch_size=0", r"train_dataloader\.batch_size=0: at least 1"),
        ("interval=1)", "interval=0)", r"progress\.interval=0: at least 1"),
        ("dropout=0.3", "dropout='much'", "ToyModel: dropout='much', expected float"),
    ],
)
def test_values_that_cannot_be(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        launch.train(launch.prepare(write_config(tmp_path, CONFIG.replace(old, new)), str(tmp_path / "w")))


def test_whole_numbers_may_be_written_as_fractions_and_anything_switched_off(tmp_path):
    options = ["model.dim=6.0", "model.dropout=0", "optim_wrapper.paramwise_cfg=none", "default_hooks.progress=none"]
    cfg = load_config(write_config(tmp_path), options)
    assert (cfg.model.dim, cfg.optim_wrapper.paramwise_cfg, cfg.default_hooks.progress) == (6.0, None, None)


def test_options_set_what_is_there_and_what_the_type_takes(tmp_path):
    options = [
        "model.dim=9",
        "model.num_classes=4",
        "train_cfg.batch_split=2",
        "optim_wrapper.optimizer.betas=(0.8, 0.9)",
        "cache.views=4",
    ]
    cfg = load_config(write_config(tmp_path), [*options, "default_hooks.checkpoint.every_steps=7"])
    assert (cfg.model.dim, cfg.model.num_classes, cfg.train_cfg.batch_split) == (9, 4, 2)
    assert cfg.cache == {"views": 4}
    assert cfg.optim_wrapper.optimizer.betas == (0.8, 0.9)
    assert cfg.default_hooks.checkpoint.every_steps == 7
    text = CONFIG.replace("default_hooks =", "_rates = [dict(a=1)]\ndefault_hooks =").replace("clip", "clip")
    assert "_rates" not in load_config(write_config(tmp_path, text))


def test_options_reach_into_lists(tmp_path):
    text = CONFIG + "custom_hooks = [dict(type='ema', decay=0.9)]\n"
    assert load_config(write_config(tmp_path, text), ["custom_hooks.0.decay=0.5"]).custom_hooks[0].decay == 0.5
    with pytest.raises(ValueError, match="list of 1"):
        load_config(write_config(tmp_path, text), ["custom_hooks.3.decay=0.5"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("true", True),
        ("none", None),
        ("[1,2]", [1, 2]),
        ("a/b.txt", "a/b.txt"),
        ("8x16", "8x16"),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_missing_file_names_neighbors(tmp_path):
    write_config(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean '.*toy\.py'"):
        load_config(tmp_path / "toi.py")


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.png is neither a config \(\.py\) nor a checkpoint"):
        load_config(tmp_path / "a.png")


def test_dump_reloads(tmp_path):
    cfg = load_config(write_config(tmp_path))
    cfg.dump(str(tmp_path / "dumped.py"))
    runner = launch.train(launch.prepare(str(tmp_path / "dumped.py"), str(tmp_path / "w"), ["train_cfg.max_epochs=2"]))
    assert runner.iter == 10


def test_precision_and_seed_of_the_command_line_reach_every_stage(tmp_path):
    text = CONFIG + "test_dataloader = dict(batch_size=4, dataset=dict(type=ToyData, size=5, test=True))\n"
    cfg = launch.prepare(write_config(tmp_path, text), str(tmp_path / "w"), seed=11, amp="bf16")
    assert cfg.randomness.seed == 11
    assert (cfg.optim_wrapper.amp, cfg.val_cfg.amp, cfg.test_cfg.amp) == ("bf16",) * 3
    assert cfg.work_dir == str(tmp_path / "w")


def test_a_benchmark_changes_what_it_names_before_the_other_options(tmp_path):
    text = CONFIG + "\nbenchmarks = dict(long=dict(train_cfg=dict(max_epochs=9), about=dict(benchmark='long')))\n"
    path = write_config(tmp_path, text)
    plain, cfg = load_config(path), load_config(path, ["train_cfg.val_interval=3", "benchmark=long"])
    assert plain.train_cfg.max_epochs == 4
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cfg.about.benchmark) == (9, 3, "long")
    assert "benchmarks" not in cfg
    with pytest.raises(ValueError, match="no benchmark 'lang'; did you mean 'long'"):
        load_config(path, ["benchmark=lang"])


def test_a_variant_comes_after_the_benchmark_and_names_the_work_directory(tmp_path):
    text = CONFIG + "\nbenchmarks = dict(long=dict(train_cfg=dict(max_epochs=9, val_interval=9)))\n"
    path = write_config(tmp_path, text + "variants = dict(short=dict(train_cfg=dict(max_epochs=2)))\n")
    cfg = launch.prepare(path, options=["variant=short", "benchmark=long"])
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (2, 9)
    assert cfg.work_dir == "work_dirs/toy_short"
    assert launch.prepare(path).work_dir == "work_dirs/toy"
    assert "variants" not in cfg
    with pytest.raises(ValueError, match="no variant 'shirt'; did you mean 'short'"):
        load_config(path, ["variant=shirt"])


def test_british_names_of_old_are_refused_by_their_new_ones(tmp_path):
    """Arguments and classes of version 0.1 were spelled otherwise."""
    for old, new in (("colour", "color"), ("normalise", "normalize"), ("num_neighbours", "num_neighbors")):
        assert did_you_mean(old, ["size", new, "radius"]) == f"{old!r} is now {new!r}"
    assert did_you_mean("CentreFloor", ["CenterFloor", "UnitBall"]) == "'CentreFloor' is now 'CenterFloor'"
    (tmp_path / "x_train").mkdir()
    (tmp_path / "x_train" / "1_pc.npz").touch()
    scans = dict(root=str(tmp_path / "x"), split="train", colour=True)
    with pytest.raises(ValueError, match="SUNRGBD has no argument 'colour'; 'colour' is now 'color'"):
        build(dict(type="pointcloud.datasets.sunrgbd.SUNRGBD", **scans), DATASETS)
    with pytest.raises(ValueError, match="'CentreFloor' is now 'CenterFloor'"):
        build(dict(type="pointcloud.transforms.CentreFloor"), TRANSFORMS)


def test_text_in_the_place_of_a_config_is_an_error_and_is_not_left_out():
    with pytest.raises(ValueError, match=r"\"dict\(type='mona'\)\" is text"):
        registry.build("dict(type='mona')", registry.ADAPTERS)


def test_options_of_arguments_that_take_two_kinds():
    noah = CONFIGS / "image/noah_vit-b16-in21k_224.py"
    options = ["model.adapters.0.prompt=[8,4]", "model.adapters.0.prompt=6"]  # a number where a list stood
    assert load_config(noah, options).model.adapters[0].prompt == 6
    former = CONFIGS / "image/adaptformer_vit-b16-in21k_224.py"
    options = ["model.adapters.0.scale=0.5", "model.adapters.0.scale=learned"]  # a word where a number stood
    assert load_config(former, options).model.adapters[0].scale == "learned"
