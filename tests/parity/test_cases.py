"""Every parity case that ships with the project, and that the runner can fail."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity.__main__ import CASES, load_builders, main, run_case
from tests.parity.core import find_builder
from xmodal.registry import METHODS, load_catalog

PATHS = sorted(CASES.glob("*.json"))
load_builders()
load_catalog()


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_case(path):
    if find_builder(json.loads(path.read_text())["system"]) is None:
        pytest.skip(f"{path.stem}: this system is not built yet")
    result = run_case(path)
    assert result.passed, "\n" + result.line()


def test_runner_fails_on_a_wrong_or_missing_array(tmp_path, capsys):
    for name in ("st_adapter_dev.json", "st_adapter_dev.npz"):
        shutil.copy(CASES / name, tmp_path / name)
    arrays = dict(np.load(tmp_path / "st_adapter_dev.npz"))
    np.savez(tmp_path / "st_adapter_dev.npz", **{**arrays, "logits": arrays["logits"] + 1e-3})
    assert main([str(tmp_path / "st_adapter_dev.json")]) == 1
    assert "logits: differs" in capsys.readouterr().out
    np.savez(tmp_path / "st_adapter_dev.npz", **arrays, extra=np.zeros(3, np.float32))
    assert "required, but not computed" in run_case(tmp_path / "st_adapter_dev.json").line()
    key = next(k for k in arrays if k.startswith("grad:") and arrays[k] > 0)
    np.savez(tmp_path / "st_adapter_dev.npz", **{**arrays, key: arrays[key] * 1.01})
    assert key in run_case(tmp_path / "st_adapter_dev.json").line()


def test_runner_reports_broken_files(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    assert not run_case(tmp_path / "bad.json").passed
    (tmp_path / "new.json").write_text('{"system": "nobody"}')
    assert "no builder" in run_case(Path(tmp_path / "new.json")).line()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_method_is_without_a_case(name):
    """Released code, the package peft, or a formula in float64 (`tests/parity/_make_formulas.py`) pins every method."""
    stems = {p.stem.rsplit("_", 1)[0] for p in PATHS}
    assert METHODS[name].parity, f"{name} has no parity case"
    unknown = [c for c in METHODS[name].parity if not any(s == c or s.startswith(f"{c}_") for s in stems)]
    assert not unknown, f"{name} names the cases {unknown}, which are not there"
