"""The `xmodal` command calls the tools, and finds configs by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from xmodal import command
from xmodal.engine.config import load_config

ROOT = Path(__file__).parent.parent


def test_every_command_is_a_tool_that_imports_no_other(capsys):
    assert {"new", "train", "test", "predict", "convert", "configs"} <= command.offered().keys()
    for name in command.offered().keys() - {"configs"}:
        text = command.tool_file(name).read_text()
        assert "from tools" not in text, name
        assert "import tools" not in text, name
    assert command.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in command.offered())
    assert command.main([]) == 2
    assert command.main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "test", "predict", "new"])
def test_help_comes_at_once_and_names_the_command(name):
    code = (
        "import sys; sys.argv = ['xmodal', NAME, '--help']\n"
        "class Wall:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'mmengine', 'numpy'): raise SystemExit(name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "from xmodal.command import run; run()"
    ).replace("NAME", repr(name))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: xmodal {name}" in done.stdout


def test_configs_are_listed_and_found_by_name(capsys):
    assert command.main(["configs", "EVL", "kinetics"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("video/evl_vit-b16-clip_8x16_k400\n    EVL with 4 decoder layers on CLIP for Kinetics-400")
    assert "lora" not in out
    assert command.main(["configs", "qwertz"]) == 1
    assert len(list(command.config_files())) > 50
    for name in (
        "video/evl_tiny-clip_8u_actions8",
        "evl_tiny-clip_8u_actions8.py",
        "configs/video/evl_tiny-clip_8u_actions8",
    ):
        assert command.config_file(name) == ROOT / "configs/video/evl_tiny-clip_8u_actions8.py"
    assert load_config("video/evl_tiny-clip_8u_actions8").train_cfg.max_epochs == 8
    with pytest.raises(ValueError, match="did you mean 'video/evl_tiny-clip_8u_actions8'"):
        load_config("video/evl_tiny-clip_8u_action8")
    printed = ["train", "evl_tiny-clip_8u_actions8", "--print-config", "--cfg-options", "train_cfg.max_epochs=3"]
    assert command.main(printed) == 0
    assert "max_epochs=3" in capsys.readouterr().out
