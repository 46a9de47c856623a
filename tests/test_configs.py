"""Every config parses, builds all its parts and says what it is."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tools.vtab import SETTINGS
from xmodal.encoders.efficientnet_lite import efficientnet_lite0
from xmodal.encoders.timm_weights import timm_encoder
from xmodal.engine.config import apply_options, load_config
from xmodal.engine.optim import param_groups
from xmodal.evaluation.image_benchmarks import BENCHMARKS, ROOTS
from xmodal.evaluation.image_tasks import published_settings
from xmodal.registry import MODELS, TRANSFORMS, build

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts and p.stem != "__init__")
WEIGHT_KEYS = ("pretrained", "weights", "path")


def name(path):
    return str(path.relative_to(ROOT))


def runs_of(folder):
    """Every config of a folder as it stands and in each of its variants: (path, options)."""
    for path in CONFIGS:
        if path.parent.name == folder:
            yield pytest.param(path, [], id=name(path))
            for variant in Config.fromfile(path).get("variants", ()):
                yield pytest.param(path, [f"variant={variant}"], id=f"{name(path)}-{variant}")


def random_weights(cfg):
    """Ask for random weights instead of files that are not here."""
    encoder = cfg.model.get("encoder")
    while isinstance(encoder, dict):
        for key in WEIGHT_KEYS:
            if key in encoder:
                encoder[key] = False if isinstance(encoder[key], bool) else "random"
        if encoder.type is efficientnet_lite0:
            encoder["checkpoint"] = "random"
        encoder = encoder.get("encoder")
    return cfg


def check_groups(cfg, model):
    """The config's rules for rates and decay must fit the weights that train."""
    wrapper = cfg.optim_wrapper
    rules = wrapper.get("paramwise_cfg") or {}
    groups = param_groups(model, wrapper.optimizer.lr, wrapper.optimizer.get("weight_decay", 0.0), **rules)
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("path", "options"), runs_of("video"))
def test_video_config_builds(path, options):
    cfg = random_weights(load_config(path, options))
    with torch.device("meta"):
        model = build(cfg.model, MODELS)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert 0 < trained <= total
    check_groups(cfg, model)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert train.num_frames == val.num_frames
    assert cfg.get("param_scheduler") is not None


def image_runs():
    """Every image config with each benchmark that it offers."""
    for run in runs_of("image"):
        path, options = run.values
        offers = "--benchmark" in path.read_text()
        yield from (pytest.param(path, [f"benchmark={b}", *options], id=f"{run.id}-{b}") for b in BENCHMARKS if offers)
        if not offers:
            yield run


@pytest.mark.parametrize(("path", "options"), image_runs())
def test_image_config_builds(path, options):
    cfg = random_weights(load_config(path, options))
    benchmark = next((o.partition("=")[2] for o in options if o.startswith("benchmark=")), None)
    if benchmark:
        assert cfg.about.benchmark == benchmark
        assert cfg.train_dataloader.dataset.root.startswith(ROOTS[benchmark])
    tower = cfg.model.encoder.get("encoder", cfg.model.encoder)
    if tower.type is timm_encoder:
        tower.arch = dict(depth=2)  # faster, and nothing in these configs depends on the depth
    with torch.device("meta"):
        model = build(cfg.model, MODELS)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained >= sum(p.numel() for p in model.head.parameters()) > 0
    check_groups(cfg, model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for transform in loader.dataset.get("transforms", ()):
            build(transform, TRANSFORMS)
    published = published_settings(cfg, SETTINGS)
    tasks = published.get("tasks", {"": []})
    for values in tasks.values():
        options = dict(zip(published.get("options", []), values, strict=True))
        apply_options(cfg, [f"{key}={value}" for key, value in options.items()])
    for key, values in published.get("search", {}).items():
        apply_options(cfg, [f"{key}={values[0]}"])


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_header_says_what_it_is(path):
    text = path.read_text()
    for word in ("Command:", "Measured here:"):
        assert word in text.split('"""')[1], f"{name(path)}: the docstring lacks {word!r}"
    assert f"configs/{path.relative_to(ROOT / 'configs')}" in text, "the command names another config"


ROWS = [  # of the papers' tables: encoder, frames, stride, views, parts of a batch
    ("st-adapter_vit-b16-clip_8x16_k400", "vit-l14_32x8", "ViT-L-14-quickgelu", 32, 8, (1, 3), 8),
    ("evl_vit-b16-clip_8x16_k400", "vit-b16_16x16", "ViT-B-16-quickgelu", 16, 16, (3, 1), 1),
    ("evl_vit-b16-clip_8x16_k400", "vit-l14_8x16", "ViT-L-14-quickgelu", 8, 16, (1, 3), 1),
    ("evl_vit-b16-clip_8x16_k400", "vit-l14-336_32x8", "ViT-L-14-336-quickgelu", 32, 8, (3, 1), 8),
    ("st-adapter_vit-b16-clip_8u_ssv2", "vit-l14_16u", "ViT-L-14-quickgelu", 16, None, (3, 1), 4),
]


@pytest.mark.parametrize(("stem", "variant", "encoder", "frames", "stride", "views", "parts"), ROWS)
def test_a_variant_is_the_row_of_its_name(stem, variant, encoder, frames, stride, views, parts):
    cfg = load_config(ROOT / f"configs/video/{stem}.py", [f"variant={variant}"])
    test = cfg.val_dataloader.dataset
    assert cfg.model.encoder.name == encoder
    for data in (cfg.train_dataloader.dataset, test):
        assert (data.num_frames, data.sampling.get("stride")) == (frames, stride)
    assert (test.spatial_views, test.temporal_views, cfg.train_cfg.get("batch_split", 1)) == (*views, parts)
    assert cfg.model.get("reader", {}).get("num_frames", frames) == frames
    assert test.size == (336 if "336" in encoder else 224)


def test_published_counts():
    cfg = random_weights(load_config(ROOT / "configs/video/st-adapter_vit-b16-clip_8x16_k400.py"))
    with torch.device("meta"):
        model = build(cfg.model, MODELS)
    state = model.state_dict()
    saved = sum(state[k].numel() for k in model.saved_keys())
    assert saved == 7_417_744  # 12 adapters and the head
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 7_417_744 - 592_512  # the last one is dead
    assert saved * 4 < 35e6  # bytes of a checkpoint without the optimizer


def test_a_leaf_never_inherits_a_leaf():
    for path in CONFIGS:
        assert "from .." not in path.read_text().replace("from .._base_", ""), name(path)
        assert "\n    from .s" not in path.read_text(), name(path)


RUNS = [run for folder in ("video", "image", "pointcloud", "pretrain") for run in runs_of(folder)]


@pytest.mark.parametrize(("path", "options"), RUNS)
def test_a_printed_config_is_the_same_experiment(path, options, tmp_path):
    cfg = load_config(path, options)
    printed = tmp_path / "printed.py"
    printed.write_text(cfg.pretty_text)
    assert load_config(printed).pretty_text == cfg.pretty_text
