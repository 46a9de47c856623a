"""tools/predict.py: what it takes and what it writes."""

import csv
import io
import json

import pytest

from tests.tools.test_train_tools import tool
from tests.use.conftest import names_below


def test_formats_of_the_answers(image_run, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = names_below(pictures / "val", ".png")
    predict, words = tool("predict"), [str(image_run), *files, "lost.png"]
    assert predict([*words, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in whole] == words[1:]
    assert predict([*words, "--format", "jsonl"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == whole
    assert predict([*words, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == words[1:]
    assert [row["name"] for row in rows[:-1]] == [row["name"] for row in whole[:-1]]
    assert rows[-1]["error"] == "no file at lost.png"
    assert float(rows[0]["score"]) == whole[0]["score"]
    for name, read in (
        ("a.json", json.loads),
        ("a.jsonl", lambda text: [json.loads(line) for line in text.splitlines()]),
    ):
        assert predict([*words, "--write", name]) == 0
        assert read((tmp_path / name).read_text()) == whole
        assert capsys.readouterr().out == ""
    assert predict([str(image_run), "lost.png"]) == 1


def test_names_from_standard_input(image_run, pictures, capsys, monkeypatch):
    files = names_below(pictures / "val", ".png")
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{file}\n" for file in files[:3]) + "\n"))
    assert tool("predict")([str(image_run / "best.pth"), "-", "--json"]) == 0
    assert [row["file"] for row in json.loads(capsys.readouterr().out)] == files[:3]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert tool("predict")([str(image_run / "best.pth"), "-"]) == 2
    assert "standard input is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--unit", "mm"], "--unit is for point clouds, and this model reads images"),
        (["--window", "2s"], "--window is for videos, and this model reads images"),
        (["--window", "2 m"], "--window takes a length of time such as 2s"),
        (["--cfg-options", "model.had.num_classes=3"], "did you mean 'head'"),
    ],
)
def test_options_that_do_not_fit(image_run, capsys, words, said):
    assert tool("predict")([str(image_run), "a.png", *words]) == 2
    assert said in capsys.readouterr().err


def test_clouds_get_pages(cloud_run, clouds, tmp_path, capsys):
    out = tmp_path / "found"
    words = [str(cloud_run), str(clouds / "val"), "--out", str(out), "--format", "csv", "--top", "1"]
    assert tool("predict")(words) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(names_below(out, ".html")) == 8
    assert {row["name"] for row in rows} <= {"ball", "box"}
