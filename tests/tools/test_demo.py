import re
import subprocess
import sys

import pytest

from tools.demo import METHODS, ROOT, table
from tools.demo_page import chart, write_page
from video.toys.actions import ActionSet, make_actions


def made_up(right, of=8):
    """Results of a method that has `right` of the `of` clips right and says class 0 otherwise."""
    rows = []
    for i in range(of):
        said = i % 8 if i < right else 0
        scores = [1.0 * (j == said) for j in range(8)]
        rows.append({"sample_id": f"clips/test/{i:05d}.mp4", "label": i % 8, "scores": scores})
    counts = [[0] * 8 for _ in range(8)]
    for row in rows:
        counts[row["label"]][row["scores"].index(1.0)] += 1
    report = {
        "device": "2 CPU cores",
        "trained_parameters": 1000,
        "total_parameters": 20000,
        "history": [{"step": 50, "loss": 2.0, "top1": 20.0}, {"step": 100, "loss": 1.0, "top1": 70.0}],
        "epochs": [
            {"epoch": 1.0, "step": 50, "val": {"top1": 30.0}},
            {"epoch": 2.0, "step": 100, "val": {"top1": 90.0}},
        ],
    }
    test = {"top1": 100 * right / of, "evaluated": of, "confusion": counts}
    return {
        "config": "some_config",
        "minutes": 1.5,
        "train": report,
        "test": test,
        "predictions": rows,
        "commands": ["python a"],
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    data = make_actions(folder / "data", ActionSet(train=1, val=1, test=8, frames=4))
    results = {"ST-Adapter": made_up(6), "A < B": made_up(2)}
    return write_page(folder / "out" / "index.html", results, data, 3.2).read_text(), data


def test_page_is_self_contained(page):
    text, data = page
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<video") == 8
    import base64

    assert base64.b64encode((data / "clips/test/00003.mp4").read_bytes()).decode() in text


def test_page_tells_what_came_out(page):
    text, _ = page
    assert "75.0 % of 8" in text
    assert "A &lt; B" in text
    assert text.count("&#10003;") == 6 + 2 + 0
    assert text.count("&#10007;") == 2 + 6
    assert text.count("<polyline") == 4


def test_table():
    lines = table({"ST-Adapter": made_up(6)}).splitlines()
    assert "75.0 % of 8" in lines[1]
    assert "1,000 (5.0 %)" in lines[1]


def test_chart_without_points_is_drawn():
    assert "<svg" in chart({"a": []}, "y", "x")


@pytest.mark.parametrize("config", METHODS.values())
def test_configs_are_there(config):
    assert (ROOT / "configs" / "video" / f"{config}.py").exists()


def test_help_is_light():
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); sys.argv = ['demo.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / 'tools' / 'demo.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('HEAVY', [m for m in ('torch', 'mmengine') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in done.stdout
    assert "--methods" in done.stdout
