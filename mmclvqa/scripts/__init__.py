"""The run scripts: what ``generate_run_scripts.py`` writes into ``run_scripts/mmclvqa``."""
