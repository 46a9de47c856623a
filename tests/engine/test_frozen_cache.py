"""The frozen-prefix cache: the same features, the same training, stale entries never used, killed and resumed."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from pointcloud.model import CloudModel
from tests.xmodal.test_model import refill, tower
from video.attentive_probe import AttentiveProbe
from video.evl import EVLDecoder
from video.readers import TimeMeanReader
from video.st_adapter import st_adapter
from xmodal.data.collate import collate
from xmodal.encoders.tiny import tiny_clip
from xmodal.engine.frozen_cache import FrozenCache, pack, unpack, use_cache
from xmodal.heads.classification import ClassificationHead
from xmodal.model import TransferModel
from xmodal.pretraining import ContrastiveModel
from xmodal.prompted import PromptedModel

HEAD = dict(type=ClassificationHead, num_classes=4)
READERS = {
    "evl": dict(reader=dict(type=EVLDecoder, num_frames=3, num_layers=2)),
    "probe": dict(reader=dict(type=TimeMeanReader)),
    "attention": dict(reader=dict(type=AttentiveProbe, depth=1, per_frame=True, num_frames=3)),
    "vqt": dict(reader=dict(type="vqt")),
    "top block": dict(reader=dict(type=TimeMeanReader), adapters=[dict(type=st_adapter, bottleneck=4, blocks=[1])]),
}


class Clips(Dataset):
    """Random clips that depend on (epoch, index); number 3 cannot be read."""

    classes = ("a", "b", "c", "d")

    def __len__(self):
        return 7

    def __getitem__(self, key):
        epoch, index = key
        if index == 3:
            return {"skipped": "s3", "reason": "broken"}
        rng = np.random.default_rng([epoch, index])
        clips = torch.from_numpy(rng.integers(0, 256, (2, 3, 3, 16, 16), dtype=np.uint8))
        return {"clips": clips, "label": index % 4, "sample_id": f"s{index}"}


def model_of(kind, seed=0):
    torch.manual_seed(seed)
    model = TransferModel(encoder=refill(tower()), head=HEAD, **READERS[kind])
    torch.manual_seed(1)
    return refill(model)


def cache_of(model, root, **kwargs):
    return FrozenCache(model, Clips(), root, **({"shard": 3, "batch": 2, "dtype": "float32"} | kwargs))


def losses(model, dataset, view):
    items = [dataset[view, i] for i in (0, 1, 4, 6)]
    batch = model.data_preprocessor(collate(items), True)
    model.train()
    out = model(mode="loss", **batch)["loss"]
    out.backward()
    return out.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", list(READERS))
def test_cached_training_equals_uncached(kind, tmp_path):
    model = model_of(kind)
    cache = cache_of(model, tmp_path, views=2)
    cache.fill()
    for view in (0, 1):
        want = losses(model_of(kind), Clips(), view)
        got = losses(model_of(kind), cache.read(), view)
        torch.testing.assert_close(got[0], want[0], atol=1e-5, rtol=1e-4)
        for a, b in zip(got[1], want[1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert cache.read()[5, 0]["label"] == 0  # epoch 5 reads view 1
    assert cache.read()[0, 3] == {"skipped": "s3", "reason": "broken"}
    predictions = model.eval()(mode="predict", **collate([cache.read()[0, i] for i in (0, 1)]))
    assert [p["sample_id"] for p in predictions] == ["s0", "s1"]


def test_a_kill_loses_one_shard(tmp_path, monkeypatch):
    model = model_of("probe")
    cache = cache_of(model, tmp_path, views=2)
    assert len(cache.missing()) == 6
    fill_shard, made = cache.fill_shard, []

    def dies(view, number):
        if len(made) == 3:
            raise KeyboardInterrupt
        fill_shard(view, number)
        made.append((view, number))

    monkeypatch.setattr(cache, "fill_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(rank=1, world=2)
    monkeypatch.undo()
    assert made == cache.shards()[1::2], "a process begins with its own part"
    assert cache.missing() == cache.shards()[::2]
    with pytest.raises(ValueError, match="3 shards are missing"):
        cache.read()
    (cache.folder / "v0.s00001.tokens.123.tmp").write_bytes(b"half")
    cache.fill()
    assert cache.missing() == []
    before = {p: p.stat().st_mtime_ns for p in cache.folder.iterdir()}
    cache_of(model_of("probe"), tmp_path, views=2).fill()
    assert before == {p: p.stat().st_mtime_ns for p in cache.folder.iterdir()}


def test_stale_entries_are_never_used(tmp_path):
    folder = cache_of(model_of("probe"), tmp_path).folder
    assert cache_of(model_of("probe"), tmp_path).folder == folder
    assert cache_of(model_of("probe", seed=5), tmp_path).folder != folder
    assert cache_of(model_of("evl"), tmp_path).folder != folder
    assert cache_of(model_of("probe"), tmp_path, dtype="int8").folder != folder
    assert cache_of(model_of("probe"), tmp_path, config={"size": 16}).folder != folder
    other = model_of("probe")
    for block in other.encoder.blocks:
        block.mlp.act.op = torch.nn.ReLU()
    assert cache_of(other, tmp_path).folder != folder  # the same weights, another tower
    other = model_of("probe")
    other.encoder.num_heads = 4
    assert cache_of(other, tmp_path).folder != folder
    other = model_of("probe")
    other.data_preprocessor.mean += 0.1
    assert cache_of(other, tmp_path).folder != folder
    other = model_of("probe").train()
    other.encoder.recompute = True
    assert cache_of(other, tmp_path).folder == folder


def change(model, what):
    """The model, changed in one thing that activations depend on, and how its cache is made."""
    more = {}
    if what == "deviation":
        model.data_preprocessor.std *= 1.1
    elif what == "border":  # the last block trains: the stream in front of it is kept instead of the tower's answer
        model.encoder.blocks[-1].requires_grad_(True)
    elif what == "layers":
        model.reader.layers = [0]
    elif what == "class token":
        model.encoder.cls_token.data += 0.1
    elif what == "shard":
        more["shard"] = 2
    return model, more


@pytest.mark.parametrize("what", ["deviation", "border", "layers", "class token", "shard"])
def test_everything_activations_depend_on_is_in_the_key(tmp_path, what):
    plain = cache_of(model_of("evl"), tmp_path).folder
    assert cache_of(change(model_of("evl"), None)[0], tmp_path).folder == plain
    model, more = change(model_of("evl"), what)
    assert cache_of(model, tmp_path, **more).folder != plain


def test_the_number_of_samples_is_in_the_key(tmp_path):
    class Fewer(Clips):
        def __len__(self):
            return 6

    model = model_of("probe")
    assert FrozenCache(model, Fewer(), tmp_path).folder != FrozenCache(model, Clips(), tmp_path).folder


@pytest.fixture
def filed(tmp_path):
    """A function that makes the cache's folder for one file with a label."""
    (tmp_path / "a.mp4").write_bytes(b"one")
    model = model_of("probe")

    def folder(name="a.mp4", label=0):
        clips = Clips()
        clips.samples = [SimpleNamespace(path=str(tmp_path / name), label=label)]
        return FrozenCache(model, clips, tmp_path).folder

    assert folder() == folder()
    return folder


def test_a_file_changed_at_equal_size_is_computed_again(filed, tmp_path):
    before, video = filed(), tmp_path / "a.mp4"
    info = video.stat()
    video.write_bytes(b"two")
    assert video.stat().st_size == info.st_size
    os.utime(video, ns=(info.st_atime_ns, info.st_mtime_ns + 1_000_000_000))  # clocks of some disks are coarse
    assert filed() != before


def test_a_file_of_another_size_is_computed_again(filed, tmp_path):
    before, video = filed(), tmp_path / "a.mp4"
    info = video.stat()
    video.write_bytes(b"another")
    os.utime(video, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert filed() != before


def test_a_changed_label_is_computed_again(filed):
    assert filed(label=1) != filed(label=0)


def test_another_file_is_computed_again(filed, tmp_path):
    info = (tmp_path / "a.mp4").stat()
    (tmp_path / "b.mp4").write_bytes(b"two")
    os.utime(tmp_path / "b.mp4", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert filed("b.mp4") != filed("a.mp4")


def test_a_run_caches_its_training_views_and_one_view_to_validate(tmp_path):
    def used(seed):
        model = model_of("probe")
        runner = SimpleNamespace(model=model, seed=seed, rank=0, world_size=1)
        runner._train_dataloader, runner._val_dataloader = (
            dict(dataset=dict(type=Clips), batch_size=2) for _ in range(2)
        )
        use_cache(runner, dict(root=tmp_path, views=2, dtype="float32"))
        return [loader["dataset"] for loader in (runner._train_dataloader, runner._val_dataloader)]

    train, val = used(seed=0)
    assert (train.views, val.views) == (2, 1)
    assert not torch.equal(train[0, 1]["cached/tokens"], train[1, 1]["cached/tokens"])
    assert torch.equal(val[0, 1]["cached/tokens"], val[1, 1]["cached/tokens"])
    assert used(seed=0)[0].folder == train.folder
    assert used(seed=1)[0].folder != train.folder


def test_the_limit_is_in_gigabytes(tmp_path, monkeypatch):
    cache = cache_of(model_of("probe"), tmp_path, max_gb=2.0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**50))
    monkeypatch.setattr(cache, "megabytes", lambda: 2047.0)
    assert cache.check_space() == 2047
    monkeypatch.setattr(cache, "megabytes", lambda: 2049.0)
    with pytest.raises(ValueError, match=r"needs 2\.0 GB, more than max_gb=2"):
        cache.check_space()


@pytest.mark.parametrize("training", [True, False])
def test_filling_leaves_the_mode_of_the_model(tmp_path, training):
    model = model_of("probe").train(training)
    cache_of(model, tmp_path).fill()
    assert model.training == training


def test_int8_has_a_scale_for_every_vector():
    value = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32) * np.array([[1e-3], [1.0], [1e3]], "f")
    stored, scale = pack(value, "int8")
    assert stored.dtype == np.int8
    assert np.abs(stored).max(1).tolist() == [127, 127, 127]
    half_a_step = np.abs(value).max(1, keepdims=True) / 127 / 2
    assert (np.abs(unpack(stored, scale) - value) <= half_a_step * 1.0001).all()


def test_a_full_disk_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(ValueError, match="GB left"):
        cache_of(model_of("probe"), tmp_path).fill()
    assert not list(tmp_path.rglob("*.npy"))


def test_the_estimate_is_what_is_written(tmp_path):
    for dtype in ("float16", "int8"):
        cache = cache_of(model_of("evl"), tmp_path, dtype=dtype, views=2)
        estimate = cache.megabytes()
        cache.fill()
        written = sum(path.stat().st_size for path in cache.folder.glob("*.npy")) / 2**20
        assert estimate == pytest.approx(written, rel=0.25)  # a sample that cannot be read, headers


def test_a_model_without_a_frozen_part_is_refused_by_name(tmp_path):
    clip = tiny_clip("random")
    prompted = PromptedModel(clip.visual, dict(type="mvlpt", class_names=["a", "b"], clip=clip, n_ctx=2, n_visual=2))
    contrastive = ContrastiveModel(tiny_clip("random"))
    cloud = CloudModel(tower(), dict(type="classification3d", num_classes=3, num_groups=4, group_size=4))
    for model in (prompted, contrastive, cloud):
        assert not hasattr(model, "boundary")
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no frozen part that can be cached"):
            cache_of(model, tmp_path)


def test_precision_and_limits(tmp_path):
    value = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    assert np.array_equal(unpack(*pack(value, "float32")), value)
    assert np.abs(unpack(*pack(value, "float16")) - value).max() < 2e-3
    assert np.abs(unpack(*pack(value, "int8")) - value).max() <= np.abs(value).max() / 127
    with pytest.raises(ValueError, match="max_gb"):
        cache_of(model_of("probe"), tmp_path, max_gb=1e-9).fill()
    with pytest.raises(ValueError, match="float16"):
        cache_of(model_of("probe"), tmp_path, dtype="half")
    trained = TransferModel(encoder=tower(), head=HEAD, freeze_encoder=False)
    with pytest.raises(ValueError, match="nothing to cache"):
        cache_of(trained, tmp_path)


@pytest.mark.parametrize("harm", ["cut", "empty", "gone", "garbled", "no mark", "cut mark"])
def test_damaged_shards_are_computed_again(tmp_path, harm):
    cache = cache_of(model_of("probe"), tmp_path)
    cache.fill()
    want = [cache.read()[i] for i in range(7)]
    file = sorted(cache.folder.glob("v0.s00001.*.npy"))[0]
    other = sorted(cache.folder.glob("v0.s00000.*.npy"))[0].stat().st_mtime_ns
    mark = cache.mark(0, 1)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "gone":
        file.unlink()
    elif harm == "garbled":
        file.write_bytes(b"<html>" + file.read_bytes())
    elif harm == "no mark":
        mark.unlink()
    else:
        mark.write_text(mark.read_text()[:20])
    assert cache.missing() == [(0, 1)]
    cache.fill()
    again = [cache.read()[i] for i in range(7)]
    for one, two in zip(want, again, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(v, two[k]) for k, v in one.items() if isinstance(v, torch.Tensor))
    assert sorted(cache.folder.glob("v0.s00000.*.npy"))[0].stat().st_mtime_ns == other  # whole ones stay


def test_a_shard_damaged_while_running_is_named(tmp_path):
    cache = cache_of(model_of("probe"), tmp_path)
    cache.fill()
    data = cache.read()
    file = sorted(cache.folder.glob("v0.s00000.*.npy"))[0]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged .*start again"):
        data[0]


def test_filling_leaves_the_random_states_alone(tmp_path):
    """A run that fills its cache and one that finds it draw the same numbers."""
    cache = cache_of(model_of("probe"), tmp_path)
    before = torch.get_rng_state()
    cache.fill()
    assert torch.equal(torch.get_rng_state(), before)
