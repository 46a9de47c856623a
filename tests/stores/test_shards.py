"""What is read from tars and stores is what is read from files, sample for sample."""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from pointcloud.datasets.own import OwnClouds
from tests.stores.server import serving
from tests.video.videos import write_video
from video.annotations import VIDEOS
from video.datasets import VideoDataset
from video.decode import VideoFile
from xmodal.data import fetch, stores, tars, trouble
from xmodal.data.captions import TarShards
from xmodal.data.images import ImageDataset
from xmodal.data.loader import build_loader
from xmodal.data.packing import make_index, pack, plan
from xmodal.data.sampler import EpochSampler
from xmodal.data.trouble import TroubleError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(trouble, "WAITS", (0, 0, 0, 0))
    monkeypatch.setenv("XMODAL_STORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos, pictures, clouds and a folder of frames, each in two classes."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("videos", "images", "clouds", "frames"):
        for klass in ("left", "right and täglich"):
            for number in range(3):
                place = folder / kind / klass
                place.mkdir(parents=True, exist_ok=True)
                if kind == "videos":
                    write_video(place / f"{number}.{'avi' if number == 1 else 'mp4'}", 16, (48 + 2 * number, 64))
                elif kind == "images":
                    pixels = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"im {number}.png")
                elif kind == "clouds":
                    np.save(place / f"{number}.npy", rng.normal(size=(50 + number, 3)).astype(np.float32))
                else:
                    for frame in range(1, 5):
                        pixels = np.full((16, 24, 3), 40 * frame + number, np.uint8)
                        (place / f"film {number}").mkdir(exist_ok=True)
                        Image.fromarray(pixels).save(place / f"film {number}" / f"img_{frame:05d}.png")
    for kind in ("videos", "images", "clouds", "frames"):
        limit = sum(p.stat().st_size for p in (folder / kind).rglob("*") if p.is_file()) // 3
        for job in plan(folder / kind, folder / f"{kind} packed", limit):
            pack(job)
    return folder


BUILD = {
    "videos": lambda at, **o: VideoDataset(at, num_frames=4, sampling={"type": "uniform"}, size=32, **o),
    "images": lambda at, **o: ImageDataset(at, transforms=[{"type": "random_crop", "size": 24}], **o),
    "clouds": lambda at, **o: OwnClouds(at, **o),
}


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


def assert_same_sets(files, found):
    assert len(found) == len(files) == 6
    assert found.classes == files.classes
    for index in range(len(files)):
        for key in (index, (3, index)):
            same(files[key], found[key])


def in_memory(folder, name):
    """A copy of a folder in fsspec's memory."""
    system = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/{name}/{path.relative_to(folder)}", path.read_bytes())
    return f"memory://{name}"


@pytest.mark.parametrize("test_mode", [False, True])
@pytest.mark.parametrize("kind", BUILD)
def test_every_way_to_the_files_gives_the_same_samples(kind, test_mode, data, tmp_path):
    build = BUILD[kind]
    files = build(data / kind, test_mode=test_mode)
    packed = data / f"{kind} packed"
    assert len(list(packed.glob("*.tar"))) >= 3
    for number, root in enumerate([
        str(packed / "shard-*.tar"),
        [str(p) for p in sorted(packed.glob("*.tar"))],
        f"file://{packed}/shard-*.tar",
        f"file://{data / kind}",
        in_memory(data / kind, f"{kind}-files"),
        in_memory(packed, f"{kind}-tars") + "/shard-*.tar",
    ]):  # fmt: skip
        assert_same_sets(files, build(root, test_mode=test_mode)), number


@pytest.mark.parametrize("kind", BUILD)
def test_lists_name_members_as_they_name_files(kind, data, tmp_path):
    names = sorted(p for p in (data / kind).rglob("*") if p.is_file())
    lines = [f"{p.relative_to(data / kind)}\t{number % 2}" for number, p in enumerate(names)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(lines).replace("\t", ","))
    for name in ("list.txt", "list.csv"):
        files = BUILD[kind](tmp_path / name, root=data / kind)
        assert_same_sets(files, BUILD[kind](tmp_path / name, root=str(data / f"{kind} packed" / "*.tar")))
        assert_same_sets(files, BUILD[kind](tmp_path / name, root=in_memory(data / kind, "listed")))


def test_a_list_without_a_root_may_name_members_and_urls(data, tmp_path):
    tar = data / "images packed" / "shard-00000.tar"
    url = in_memory(data / "images", "urls")
    (tmp_path / "list.txt").write_text(f"{tar}/left/im 0.png 0\n{url}/left/im 1.png 1\n")
    found = ImageDataset(tmp_path / "list.txt")
    for index in range(2):
        same(
            found[index], {**ImageDataset(data / "images")[index], "label": index, "sample_id": found.sample_id(index)}
        )


@pytest.mark.parametrize("store", ["tar", "memory"])
def test_folders_of_frames_in_tars_and_stores(store, data, tmp_path):
    names = [f"{k}/film {n}" for k in ("left", "right and täglich") for n in range(3)]
    (tmp_path / "list.txt").write_text("\n".join(f"{name} 4 {i % 2}" for i, name in enumerate(names)))
    options = {"num_frames": 3, "sampling": {"type": "uniform"}, "size": 16}
    files = VideoDataset(tmp_path / "list.txt", data / "frames", **options)
    if store == "memory":
        root = in_memory(data / "frames", "frames")
    else:  # the frames of a video come into one tar
        size = sum(p.stat().st_size for p in (data / "frames").rglob("*.png"))
        for job in plan(data / "frames", tmp_path / "packed", size * 8 // 6 + 8):
            pack(job)
        root = str(tmp_path / "packed" / "*.tar")
    assert_same_sets(files, VideoDataset(tmp_path / "list.txt", root, **options))


def test_a_folder_of_frames_cut_in_two_is_refused(data, tmp_path):
    (tmp_path / "list.txt").write_text("left/film 0 0\n")
    for job in plan(data / "frames/", tmp_path / "packed", 100):
        pack(job)
    with pytest.raises(ValueError, match="the files of left/film 0 are in 4 tars"):
        VideoDataset(tmp_path / "list.txt", str(tmp_path / "packed" / "*.tar"))


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_libraries_read_members(decoder, data):
    pytest.importorskip(decoder)
    path = stores.root_of(str(data / "videos packed" / "*.tar")).files()["left/0.mp4"]
    with VideoFile(path, decoder=decoder) as video, VideoFile(data / "videos/left/0.mp4") as plain:
        assert (video.backend, plain.backend) == (decoder, "keyframes")
        assert np.array_equal(video.read([3, 9]), plain.read([3, 9]))


def test_kinetics_finds_its_films_in_tars(data, tmp_path):
    films = tmp_path / "films" / "train"
    films.mkdir(parents=True)
    for name in ("abc_000001_000011", "def_000002_000012"):
        shutil.copy(data / "videos/left/0.mp4", films / f"{name}.mp4")
    for job in plan(films.parent, tmp_path / "out", 10):
        pack(job)
    rows = "label,youtube_id,time_start,time_end,split\nwave,abc,1,11,train\nrun,def,2,12,train\nrun,gone,2,12,train\n"
    (tmp_path / "train.csv").write_text(rows)
    found = VIDEOS.read(tmp_path / "train.csv", str(tmp_path / "out" / "*.tar"))
    assert [(s.label, s.sample_id) for s in found.samples] == [(1, "abc_000001_000011"), (0, "def_000002_000012")]
    assert found.samples[1].path == str(tmp_path / "out" / "shard-00001.tar/train/def_000002_000012.mp4")
    assert found.missing == ["gone_000002_000012"]


def test_workers_read_a_failing_server_sample_for_sample(data):
    """One request in twenty fails: refused, cut off, or half of its bytes; no sample is lost or replaced."""
    files = BUILD["images"](data / "images")
    with serving(data / "images packed", every=20) as server:
        found = BUILD["images"](f"{server.url}/shard-*.tar")
        for epoch in range(12):
            shutil.rmtree(fetch.cache_folder(), ignore_errors=True)
            sampler = EpochSampler(len(found))
            sampler.seek(epoch)
            loader = build_loader({"batch_size": 1, "num_workers": 2}, found, sampler)
            for key, batch in zip(sampler, loader, strict=True):
                assert torch.equal(batch["image"][0], files[key]["image"])
        assert server.failed >= 3
        assert not found.broken
        spans = [span for _, name, span in server.asked if name.endswith(".tar") and span]
        assert spans, "members are read by ranges"


def test_a_server_without_ranges_is_named(data):
    with serving(data / "images packed", ranges=False) as server:
        found = BUILD["images"](f"{server.url}/shard-*.tar")
        with pytest.raises(TroubleError, match="requests for ranges"):
            found[0]


def test_a_store_that_is_down_is_named_with_file_and_shard(data, monkeypatch):
    monkeypatch.setenv("XMODAL_STORE_CACHE_GB", "0")
    with serving(data / "images packed") as server:
        found = BUILD["images"](f"{server.url}/shard-{{00000..00002}}.tar")
        found[0]
        server.down = True
        before = len(server.asked)
        with pytest.raises(TroubleError) as failed:
            found[0]
        tries = sum(name == "shard-00000.tar" for _, name, _ in server.asked[before:])
    assert tries == 5, "as often as files are tried"
    for part in (server.url + "/shard-00000.tar", "left/im 0.png", f"the store {server.url} fails", "503"):
        assert part in str(failed.value)
    assert not found.broken


def test_a_server_that_fails_is_not_a_missing_file(data, tmp_path):
    """fsspec calls a file missing whatever a server answers: that would count samples as broken."""
    (tmp_path / "list.txt").write_text("left/im 0.png 0\nleft/im 1.png 1\nleft/none.png 1\n")
    with serving(data / "images") as server:
        found = ImageDataset(tmp_path / "list.txt", server.url, test_mode=True)
        same(found[0], {**ImageDataset(data / "images", test_mode=True)[0]} | {"sample_id": "left/im 0.png"})
        assert found[2]["skipped"] == "left/none.png"
        server.down = True
        with pytest.raises(TroubleError, match=r"the store .* fails: ClientResponseError: 503"):
            found[1]
    assert [name.rpartition("/")[2] for name in found.broken] == ["none.png"]


def test_a_range_of_tars_is_spelled_out_and_a_missing_one_named(data):
    gone = pytest.raises(tars.ShardError, match=r"shard-00099\.tar is not there")
    with serving(data / "images packed") as server, gone:
        stores.root_of(f"{server.url}/shard-{{00099..00100}}.tar")
    with pytest.raises(ValueError, match="no tar is called"):
        stores.root_of(str(data / "none-*.tar"))
    with pytest.raises(ValueError, match="pip install"):
        BUILD["images"]("nosuch://bucket/folder")


# ---------------------------------------------------------------- damage


@pytest.fixture
def packed(data, tmp_path):
    shutil.copytree(data / "images packed", tmp_path / "packed")
    return tmp_path / "packed"


def read_all(packed):
    found = BUILD["images"](str(packed / "*.tar"))
    return [found[i] for i in range(len(found))]


def test_damage_of_tars_and_indexes_is_named_and_no_sample_is_blamed(packed, data):
    tar, index = packed / "shard-00000.tar", packed / "shard-00000.tar.index"
    sound, lines = tar.read_bytes(), index.read_bytes()
    assert len(read_all(packed)) == 6

    def refused(words):
        with pytest.raises(tars.ShardError, match=words) as error:
            read_all(packed)
        assert "shard-00000.tar" in str(error.value)
        tar.write_bytes(sound)
        index.write_bytes(lines)

    index.unlink()
    refused("has no index")
    index.write_bytes(lines[: len(lines) // 2])
    refused("does not have its checksum|is damaged|checksum")
    index.write_bytes(b"")
    refused("first line")
    index.write_bytes(lines.replace(b"left", b"lift"))
    refused("its lines do not have its checksum")
    tar.write_bytes(sound[:-512])
    refused("it was changed or is not whole")
    tar.write_bytes(sound[512:] + sound[:512])
    refused("where its index says")
    shutil.copytree(data / "images", packed.parent / "renamed")
    (packed.parent / "renamed" / "left").rename(packed.parent / "renamed" / "lift")
    other = plan(packed.parent / "renamed", packed.parent / "again", 2**30)[0]
    pack((other[0], other[1][: len(list(tars.heads(str(tar))))]))
    assert other[0].stat().st_size == len(sound)
    tar.write_bytes(other[0].read_bytes())
    refused(r"has no left/im 0\.png where its index says")
    found = BUILD["images"](str(packed / "*.tar"))
    tar.unlink()
    with pytest.raises(tars.ShardError, match=r"shard-00000\.tar is not there"):
        found[0]
    with pytest.raises(tars.ShardError, match=r"shard-00000\.tar is not there"):
        BUILD["images"](str(tar))
    assert not found.broken


def test_another_tar_of_equal_size_from_a_store_is_noticed_by_its_checksum(packed):
    found = BUILD["images"](in_memory(packed, "changed") + "/*.tar")
    system = fsspec.filesystem("memory")
    data = bytearray(system.cat_file("/changed/shard-00000.tar"))
    data[700] ^= 1
    system.pipe_file("/changed/shard-00000.tar", bytes(data))
    with pytest.raises(TroubleError, match="does not have the checksum"):
        found[0]


def test_one_name_in_two_tars_is_refused_and_both_can_be_named(data, tmp_path):
    for number in range(2):
        pack(plan(data / "images", tmp_path / str(number), 2**30)[0])
    roots = [str(tmp_path / str(n) / "shard-00000.tar") for n in range(2)]
    with pytest.raises(ValueError, match=r"both have a member 'left/im 0\.png'"):
        stores.root_of(roots)
    (tmp_path / "list.txt").write_text("0/shard-00000.tar/left/im 0.png 0\n1/shard-00000.tar/left/im 0.png 1\n")
    found = ImageDataset(tmp_path / "list.txt")
    assert torch.equal(found[0]["image"], found[1]["image"])
    assert found.sample_id(0) != found.sample_id(1)


def test_two_sets_on_two_roots(data, tmp_path):
    """Members of equal names in tars of equal names are told apart, in the cache too."""
    other = tmp_path / "other"
    shutil.copytree(data / "images", other / "files")
    for path in (other / "files").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    for job in plan(other / "files", other / "packed", 2**30):
        pack(job)
    pack(plan(data / "images", tmp_path / "same", 2**30)[0])
    one = BUILD["images"](in_memory(tmp_path / "same", "one") + "/*.tar")
    two = BUILD["images"](in_memory(other / "packed", "two") + "/*.tar")
    for index in range(6):
        assert torch.equal(one[index]["image"], 255 - two[index]["image"])


# ---------------------------------------------------------------- the cache


def test_the_cache_is_used_and_bounded(data, cache, monkeypatch):
    with serving(data / "images packed") as server:
        found = BUILD["images"](f"{server.url}/shard-*.tar")
        [found[i] for i in range(6)]
        before = len(server.asked)
        [found[i] for i in range(6)]
        assert len(server.asked) == before
        sizes = sorted(p.stat().st_size for p in cache.rglob("*") if p.is_file())
        limit = 5 * sizes[-1]
        monkeypatch.setenv("XMODAL_STORE_CACHE_GB", str(limit / 2**30))
        shutil.rmtree(cache)
        for _ in range(3):
            for i in range(6):
                found[i]
                assert sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) <= limit
        assert len(server.asked) > before
        monkeypatch.setenv("XMODAL_STORE_CACHE_GB", "0")
        shutil.rmtree(cache)
        found[0]
        assert not cache.exists()


def test_what_was_read_last_is_kept(cache, monkeypatch):
    import os

    monkeypatch.setattr(fetch, "_written", 0)
    for number in range(8):
        fetch.keep(cache / "aa" / str(number), b"x" * 100, 10**6)
        os.utime(cache / "aa" / str(number), (number, number))
    fetch.make_room(300)
    assert sorted(p.name for p in (cache / "aa").iterdir()) == ["5", "6", "7"]


def test_a_changed_file_of_a_store_is_fetched_again():
    system = fsspec.filesystem("memory")
    system.pipe_file("/change/a.bin", b"one")
    assert stores.open_file("memory://change/a.bin").read() == b"one"
    system.pipe_file("/change/a.bin", b"two and more")
    assert stores.open_file("memory://change/a.bin").read() == b"two and more"
    with pytest.raises(FileNotFoundError):
        stores.open_file("memory://change/none.bin")


def test_a_missing_file_of_a_store_counts_as_broken(data, tmp_path):
    url = in_memory(data / "images", "gaps")
    fsspec.filesystem("memory").rm("/gaps/left/im 1.png")
    lines = [f"{k}/im {n}.png 0\n" for k in ("left", "right and täglich") for n in range(3)]
    (tmp_path / "list.txt").write_text("".join(lines))
    found = ImageDataset(tmp_path / "list.txt", url, test_mode=True)
    assert "No such file" in found[1]["reason"]
    assert found.broken == [f"{url}/left/im 1.png"]


# ---------------------------------------------------------------- captions


def test_caption_shards_are_read_from_a_store(tmp_path):
    (tmp_path / "pairs").mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 80 * number, np.uint8)).save(tmp_path / "pairs" / f"{number}.png")
        (tmp_path / "pairs" / f"{number}.txt").write_text(f"caption {number}")
    shutil.make_archive(str(tmp_path / "shard-0"), "tar", tmp_path / "pairs")
    local = TarShards(str(tmp_path / "shard-*.tar"), size=16)  # no index is needed here
    make_index(str(tmp_path / "shard-0.tar"))
    (tmp_path / "up").mkdir()
    for name in ("shard-0.tar", "shard-0.tar.index"):
        shutil.copy(tmp_path / name, tmp_path / "up")
    stored = TarShards(in_memory(tmp_path / "up", "captions") + "/shard-*.tar", size=16)
    assert len(local) == len(stored) == 3
    for index in range(3):
        one, other = local[2, index], stored[2, index]
        assert np.array_equal(one.pop("image"), other.pop("image"))
        assert one == other


def test_windows_read_as_files_do(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(100)))
    with open(tmp_path / "f", "rb", buffering=0) as file:
        part = tars.Window(file, 10, 20)
        assert part.read(5) == bytes(range(10, 15))
        assert (part.tell(), part.seek(-3, 2), part.read(), part.read()) == (5, 17, bytes(range(27, 30)), b"")
        assert part.seek(-2, 1) == 18
        assert part.seek(50) == 50
        assert part.read(3) == b""
        with pytest.raises(ValueError, match="negative"):
            part.seek(-1)


def test_names_are_found_by_bisection_whatever_they_are(tmp_path):
    names = ["a", "a!", "a b", "a/b", "a/b c", "ab", "ä", 'quo"te', "tab\there", "z/1", "z/10", "z/2"]
    for name in names:
        path = Path(tmp_path, "src", "x" + name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".f").write_text(name)
    for name in ("e", "e!", "e b", "e\x7f"):
        (tmp_path / "src" / name).write_text(name)
    pack(plan(tmp_path / "src", tmp_path / "out", 2**30)[0])
    tar = str(tmp_path / "out" / "shard-00000.tar")
    for name in names:
        assert stores.open_file(f"{tar}/x{name}.f").read().decode() == name
        assert tars.index_of(tar).find(f"x{name}") is None
    for name in ("e", "e!", "e b", "e\x7f"):
        assert stores.open_file(f"{tar}/{name}").read().decode() == name
    assert sorted(tars.index_of(tar).below("xz")) == ["1.f", "10.f", "2.f"]
    assert tars.index_of(tar).below("x") == []
