"""Search: exact neighbors, an index that goes on where it was, and what the tool says."""

import json
import os

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.browser import Browser, find
from tests.tools.test_train_tools import tool
from xmodal.use import finder
from xmodal.use.finder import SearchIndex, SearchTowers


@pytest.fixture(scope="module")
def encoder():
    return SearchTowers("tiny-clip")


@pytest.fixture
def shelf(pictures, clips, tmp_path):
    """Pictures of two shapes, two clips, a torn one, in folders whose names say nothing."""
    folder = tmp_path / "shelf"
    (folder / "a").mkdir(parents=True)
    for i, shape in enumerate(("circle", "square")):
        for k in range(4):
            (folder / "a" / f"{2 * k + i}.png").write_bytes((pictures / "val" / shape / f"{k}.png").read_bytes())
    for name in ("00000.mp4", "00001.mp4"):
        (folder / name).write_bytes((clips / "clips" / "test" / name).read_bytes())
    (folder / "torn.mp4").write_bytes(b"torn")
    return folder


def names(hits, folder):
    return [os.path.relpath(hit.file, folder) for hit in hits]


def test_words_and_examples_find_their_likes(shelf, encoder):
    index = SearchIndex(shelf / ".index", "tiny-clip")
    index.add([str(shelf)])
    problems = {}
    assert sum(done for done, errors in index.fill(encoder) if not problems.update(errors)) == 11
    assert list(problems) == [str(shelf / "torn.mp4")]
    circles, squares = ({f"a/{2 * k + i}.png" for k in range(4)} for i in range(2))
    assert set(names(index.search(encoder.encode_text("a red circle"), 4), shelf)) == circles
    assert set(names(index.search(encoder.encode_text("a red square"), 4), shelf)) == squares
    for like in ("a/0.png", "00001.mp4"):
        hits = index.search(encoder.encode([encoder.read(str(shelf / like))])[0], 3)
        assert names(hits, shelf)[0] == like
        assert hits[0].score == pytest.approx(1, abs=2e-3)  # kept in half precision
    assert len(index.search(encoder.encode_text("a red circle"), 100)) == 10  # all but the torn one


def test_pictures_are_encoded_as_the_towers_do(shelf, encoder):
    from PIL import Image

    picture = np.asarray(Image.open(shelf / "a" / "0.png").resize((48, 48), Image.Resampling.BICUBIC))
    visual = encoder.clip.visual
    mean, std = (np.asarray(v, np.float32) for v in (visual.pixel_mean, visual.pixel_std))
    pixels = torch.from_numpy(((picture / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = normalize(encoder.clip.encode_image(pixels), dim=-1)
    found = encoder.encode([encoder.read(str(shelf / "a" / "0.png"))])
    assert float((found * wanted).sum()) > 0.999


def test_neighbors_are_exact(tmp_path, monkeypatch):
    """5,000 random vectors in small parts against a sort of all of them."""
    monkeypatch.setattr(finder, "PART", 700)
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    (tmp_path / "index.json").write_text('{"encoder": "none"}')
    rows = "".join(json.dumps({"path": f"/f{i}", "size": 1, "time": 1}) + "\n" for i in range(5000))
    (tmp_path / "files.jsonl").write_text(rows)
    index, rng = SearchIndex(tmp_path), np.random.default_rng(0)
    vectors = normalize(torch.from_numpy(rng.normal(size=(5000, 16)).astype(np.float32)), dim=-1).half()
    for part in range(0, 5000, 700):
        numbers = list(range(part, min(part + 700, 5000)))
        index.bank.get(index.name(part), numbers, lambda rows: vectors[rows])
    query = normalize(torch.ones(16), dim=0)
    scores = vectors.float() @ query
    order = scores.argsort(descending=True)[:50]
    hits = index.search(query, 50)
    assert [hit.file for hit in hits] == [f"/f{i}" for i in order.tolist()]
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=1e-5)


def test_an_index_goes_on_where_it_was(shelf, encoder, monkeypatch):
    monkeypatch.setattr(finder, "BATCH", 2)
    monkeypatch.setattr(finder, "PART", 5)
    index = SearchIndex(shelf / ".index", "tiny-clip")
    index.add([str(shelf)])
    filling = index.fill(encoder)
    for _ in range(3):
        next(filling)
    filling.close()  # killed
    with open(shelf / ".index" / "files.jsonl", "a") as file:
        file.write('{"path": "half a li')
    seen, real = [], encoder.read
    monkeypatch.setattr(encoder, "read", lambda path: seen.append(path) or real(path))
    again = SearchIndex(shelf / ".index")
    again.add([str(shelf)])
    list(again.fill(encoder))
    assert len(seen) == 11 - 5  # two, two and the last one of the first part
    before = again.search(encoder.encode_text("a red circle"), 20)
    seen.clear()
    third = SearchIndex(shelf / ".index")
    third.add([str(shelf)])
    list(third.fill(encoder))
    assert (seen, third.search(encoder.encode_text("a red circle"), 20)) == ([], before)
    os.replace(shelf / "a" / "1.png", shelf / "a" / "0.png")  # a square where a circle was
    os.utime(shelf / "a" / "0.png", ns=(1, 1))
    third.add([str(shelf)])
    list(third.fill(encoder))
    assert seen == [str(shelf / "a" / "0.png")]
    assert "a/0.png" in names(third.search(encoder.encode_text("a red square"), 4), shelf)
    every = names(third.search(encoder.encode_text("a red circle"), 20), shelf)
    assert len(every) == len(set(every)) == 9


def test_the_tool(shelf, tmp_path, capsys):
    search = tool("search")
    assert search([str(shelf), "a red circle", "--encoder", "tiny-clip", "--top", "3", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert len(rows) == 3
    assert "torn.mp4 cannot be read" in err
    assert search([str(shelf / ".xmodal-index"), "a red circle", "--top", "3", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert search([str(shelf)]) == 2
    assert "nothing to look for" in capsys.readouterr().err
    assert search([str(shelf), "x", "--encoder", "ViT-B-32:random"]) == 2
    assert "is an index of tiny-clip" in capsys.readouterr().err
    assert search([str(tmp_path / "none"), "x", "--encoder", "tiny-clip", "--index", str(tmp_path / "i")]) == 1
    assert search([str(shelf), "x", "--index", str(tmp_path / "j"), "--encoder", "ViT-B-99"]) == 2
    assert not (tmp_path / "j").exists()


@pytest.mark.slow
@pytest.mark.skipif(not find(), reason="needs chromium")
def test_the_page_plays_its_hits(shelf, tmp_path, capsys):
    words = [
        str(shelf),
        "--like",
        str(shelf / "00000.mp4"),
        "--encoder",
        "tiny-clip",
        "--page",
        str(tmp_path / "p.html"),
    ]
    assert tool("search")(words) == 0
    with Browser() as browser:
        browser.open(tmp_path / "p.html")
        browser.wait("document.querySelector('video').currentTime > 0.1")
        assert browser.run("document.querySelectorAll('.exhibit').length") == 10
        browser.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert browser.errors == []
        assert [r for r in browser.requests if not r.startswith(("file:", "data:"))] == []
