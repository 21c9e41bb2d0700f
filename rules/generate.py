"""Write rules/figures.json, what the figures' files say of themselves: a plan reads it without Matplotlib.

python rules/generate.py
"""

import json
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from spunge.report import figures  # noqa: E402

PATH = PROJECT / "rules" / "figures.json"


def text() -> str:
    """Return the text of rules/figures.json."""
    modules = {name: figures.load(name) for name in figures.known()}
    entries = {name: {"when": module.WHEN, "caption": module.CAPTION} for name, module in modules.items()}
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
