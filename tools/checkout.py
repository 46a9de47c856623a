"""Put the root of the checkout in front of the path.

A tool that imports other modules of `tools`, or runs from a checkout that is not installed, imports this where it is
run. One that needs nothing but the installed packages needs no such thing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
