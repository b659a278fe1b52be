"""Write the run scripts into run_scripts/mmclvqa: ``python generate_run_scripts.py --help``."""

from __future__ import annotations

import sys
from pathlib import Path

from mmclvqa.experiments.scripts import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))
