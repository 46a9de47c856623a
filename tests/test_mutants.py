"""The list of known faults fits the sources, and the tool that tries them tells noticed from unnoticed ones."""

from pathlib import Path

import pytest

from tools.mutants import Mutant, judge, read_mutants

pytest.importorskip("tomllib", reason="the list of faults is read with Python 3.11 or later")
ROOT = Path(__file__).parent.parent
MUTANTS = read_mutants(ROOT / "tests" / "mutants.toml")


def test_every_fault_can_be_put_in():
    texts = {name: (ROOT / name).read_text() for name in {m.file for m in MUTANTS}}
    wrong = [f"{m.file}: {m.name}" for m in MUTANTS if texts[m.file].count(m.old) != 1 or m.old == m.new]
    assert not wrong


def test_every_named_test_is_there():
    missing = []
    for place in {t for m in MUTANTS for t in m.tests}:
        file, *names = place.split("::")
        text = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
        missing += [place] * any(n.split("[")[0] not in text for n in names) or [place] * (not text)
    assert not missing


def test_there_are_faults_in_every_folder():
    folders = {"/".join(m.file.split("/")[:-1]) for m in MUTANTS}
    assert {"xmodal", "xmodal/engine", "xmodal/data", "xmodal/adapters", "xmodal/heads", "xmodal/encoders"} <= folders
    assert {"video", "pointcloud", "pointcloud/datasets"} <= folders
    assert len(MUTANTS) >= 120


@pytest.mark.slow
def test_the_tool_tells_noticed_from_unnoticed(tmp_path):
    old = "lr * (1 + math.cos"
    source = next(p for p in (ROOT / "xmodal").rglob("fit.py") if old in p.read_text())
    file = str(source.relative_to(ROOT))
    noticed = next(m for m in MUTANTS if m.file == "xmodal/engine/schedule.py")
    assert judge(noticed, 120) == "noticed"
    blind = Mutant("a comment", file, old, old + "  ", ("tests/xmodal/test_metrics.py",))
    assert judge(blind, 120).startswith("SURVIVED")
    absent = Mutant("nothing", file, "no such text", "", ("tests/xmodal/test_metrics.py",))
    assert judge(absent, 120).startswith("CANNOT")
    syntax = Mutant("no Python", file, old, "((", ("tests/xmodal/test_protocols.py",))
    assert judge(syntax, 120).startswith("BROKEN")
