"""Makes ``cd mmclvqa; pip install --editable .`` install the project, whose setup.py is in the parent folder."""

import os
import runpy
from pathlib import Path

os.chdir(Path(__file__).resolve().parent.parent)
runpy.run_path("setup.py", run_name="__main__")
