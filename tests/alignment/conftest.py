"""Puts this folder on the path: its tests share trainer_defaults.py, and pytest's importlib mode adds no folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
