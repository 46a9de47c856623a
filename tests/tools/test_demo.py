import json
import subprocess
import sys

import pytest

from tools.demo import METHODS, ROOT, page_of, table

REPORT = {
    "device": "2 CPU cores", "trained_parameters": 1000, "total_parameters": 20000, "seconds": 90.0,
    "history": [{"step": 50, "loss": 2.0}, {"step": 100, "loss": 1.0}],
    "epochs": [{"epoch": 1.0, "step": 50, "val": {"top1": 30.0}}, {"epoch": 2.0, "step": 100, "val": {"top1": 90.0}}],
}  # fmt: skip


def test_the_page_compares_the_methods(tmp_path):
    for name in ("EVL", "Linear probe"):
        folder = tmp_path / "runs" / METHODS[name]
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(REPORT))
        (folder / "test.json").write_text(json.dumps({"test": {"top1": 75.0, "evaluated": 8, "of": 8}}))
    text = page_of(["EVL", "Linear probe"], tmp_path, 3.2).read_text()
    assert "2 methods on the same frozen encoder" in text
    assert "3.2 minutes" in text
    for name in ("EVL", "Linear probe"):
        assert f'<td>{name}</td><td class="num">' in text
    assert text.count("75.0</td><td") >= 2


def test_table():
    made_up = {"minutes": 1.5, "train": REPORT, "test": {"top1": 75.0, "evaluated": 8}}
    lines = table({"ST-Adapter": made_up}).splitlines()
    assert "75.0 % of 8" in lines[1]
    assert "1,000 (5.0 %)" in lines[1]


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
