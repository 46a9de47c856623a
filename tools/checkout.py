"""Put the root of the checkout in front of the path, for tools that import other modules of `tools`.

A tool that needs nothing but the installed packages needs no such thing; one that does imports this where it is run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
