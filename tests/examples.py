"""Read and run the example files of CONTRIBUTING.md."""

import functools
import re
from pathlib import Path

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def sources(section):
    """Return the Python files below a heading."""
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M)
    return re.findall(r"```python\n(.*?)```", body, re.S)


@functools.cache
def example(section):
    """Run the first Python file below a heading, once in a process; returns its names."""
    scope = {"__name__": "example"}
    exec(sources(section)[0], scope)
    return scope
