"""MMF on today's stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def test_the_benchmark_package_needs_neither_mmf_nor_torch(project: Path) -> None:
    done = python(
        "import sys, mmclvqa.clove.records, mmclvqa.clove.tasks;"
        "print([m for m in ('mmf', 'torch', 'transformers') if m in sys.modules])",
        project,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_without_mmf_the_import_says_how_to_install_it(project: Path) -> None:
    hide = (
        "import sys, importlib.machinery as m\n"
        "import mmclvqa\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = lambda name, *a: None if name == 'mmf' else find(name, *a)\n"
        "import mmf"
    )
    done = python(hide, project)
    last = done.stderr.strip().splitlines()[-1]
    assert "pip install --no-deps mmf==1.0.0rc10" in last


def test_an_absent_optional_package_says_its_name_when_used() -> None:
    from mmclvqa import compat

    with compat.optional_packages():
        stand_in = compat._StandIn("nowhere")
    assert "nowhere" not in sys.modules
    name = stand_in.transforms.Compose  # imported, not used
    with pytest.raises(ImportError, match=r"nowhere\.transforms\.Compose was used but nowhere is not installed"):
        name([])


def test_ranks_are_counted_without_nccl() -> None:
    import torch.distributed as dist
    from mmf.utils.distributed import get_rank, get_world_size, is_master

    import mmclvqa  # noqa: F401

    assert (get_rank(), get_world_size(), is_master()) == (0, 1, True)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert (get_rank(), get_world_size(), is_master()) == (0, 1, True)
    finally:
        dist.destroy_process_group()
