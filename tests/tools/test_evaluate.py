"""One command runs every evaluation."""

from pathlib import Path

import pytest

from tools import evaluate
from xmodal.engine.launch import run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("config", "tool", "first"),
    [
        ("fewshot/tiny-clip_negatives16.py", "fewshot", ""),
        ("elevater/tiny-clip_drawn.py", "elevater", "run"),
        ("image/lora_vit-b16-in21k_224.py", "vtab", ""),
        ("pointcloud/epcl_vit-b32-clip_1024_modelnet-5way10shot.py", "fewshot_clouds", ""),
    ],
)
def test_a_config_finds_its_tool(monkeypatch, config, tool, first):
    seen = []
    monkeypatch.setattr(f"tools.{tool}.main", lambda words: seen.append(words) or 7)
    path = str(ROOT / "configs" / config)
    assert evaluate.main([path, "--seeds", "1"]) == 7
    assert seen[0][0] == (first or path)
    assert path in seen[0]
    assert seen[0][-2:] == ["--seeds", "1"]


def test_mistakes_end_with_one_line(tmp_path, capsys):
    assert evaluate.main([str(tmp_path / "none.py")]) == 2
    assert "no config at" in capsys.readouterr().err
    (tmp_path / "bad.py").write_text("sorces = []\n")
    assert evaluate.main([str(tmp_path / "bad.py")]) == 2
    assert "did you mean 'sources'" in capsys.readouterr().err


def test_the_exit_status_is_that_of_the_job_where_it_gives_one():
    def mistaken():
        raise ValueError("no such thing")

    assert [run(lambda: 1), run(lambda: None), run(lambda: object()), run(mistaken)] == [1, 0, 0, 2]
