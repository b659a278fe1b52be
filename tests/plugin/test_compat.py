"""MMF on today's stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def python(code: str, cwd: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], cwd=cwd, capture_output=True, text=True)


def test_mmclvqa_makes_mmf_importable(project: Path) -> None:
    done = python("import mmclvqa; from mmf.models.m4c import M4C; print(M4C.__name__)", project)
    assert done.stdout.strip() == "M4C", done.stderr


def test_importing_mmf_registers_the_plugin(project: Path) -> None:
    done = python(
        "import mmclvqa; from mmf.common.registry import registry as r;"
        "print(r.get_model_class('unicl').__name__, r.get_builder_class('clvqa').__name__,"
        " r.get_trainer_class('mmf').__name__)",
        project,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3


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


def test_stand_ins_do_not_stay_among_the_installed_modules(project: Path) -> None:
    done = python(
        "import mmclvqa, mmf, importlib.util, sys\n"
        "print([p for p in mmclvqa.compat.OPTIONAL_PACKAGES\n"
        "       if isinstance(sys.modules.get(p), mmclvqa.compat._StandIn)])",
        project,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_scripts_of_mmfs_own_distribution_start_this_entry(project: Path) -> None:
    done = python(
        "import mmclvqa, mmf_cli.run, mmf_cli.predict;"
        "print(mmf_cli.run.run.__module__, mmf_cli.predict.predict.__module__)",
        project,
    )
    assert done.stdout.split() == ["mmclvqa.cli", "mmclvqa.cli"], done.stderr


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
