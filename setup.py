"""Metadata is in pyproject.toml; this file puts the tools of the `xmodal` command and the configs into the package."""

import ast
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


def command_names() -> list[str]:
    """Return the names of the commands, read from the source: nothing is installed yet."""
    tree = ast.parse((HERE / "xmodal" / "command.py").read_text())
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "COMMANDS")
    return [key.value for key in table.keys]


class BuildWithTools(build_py):
    """Copy `configs/` and the tools of the commands to `xmodal/configs` and `xmodal/tools`."""

    def run(self) -> None:
        """Build."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        target = Path(self.build_lib) / "xmodal"
        for name in ("configs", "tools"):
            shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(HERE / "configs", target / "configs", ignore=shutil.ignore_patterns("__pycache__"))
        (target / "tools").mkdir()
        for name in command_names():
            tool = HERE / "tools" / f"{name.replace('-', '_')}.py"
            if tool.is_file():
                shutil.copy(tool, target / "tools")


setup(cmdclass={"build_py": BuildWithTools})
