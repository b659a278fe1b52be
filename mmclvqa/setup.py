"""Lets ``cd mmclvqa; pip install --editable .`` install the project, whose setup is one folder up."""

import os
import runpy
from pathlib import Path

os.chdir(Path(__file__).resolve().parent.parent)
runpy.run_path("setup.py", run_name="__main__")
