"""``eval_os.py`` called as the published scripts call it: from the shell, with their very words."""

from __future__ import annotations

import inspect
import json
import os
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import LIMIT, SETTING, World, write_blurred

import eval_os  # its functions start with test_, so they are not imported by name
from mmclvqa.clove import experiments as places
from mmclvqa.clove.tasks import order_index
from mmclvqa.evaluation.cli import save_folder
from mmclvqa.evaluation.outcome import read_sweep
from mmclvqa.evaluation.sweep import checkpoints

COMMANDS = json.loads((Path(__file__).parents[1] / "fixtures" / "published_commands.json").read_text())
CALLS = [
    pytest.param(call, id=f"{order} {method}")
    for order, methods in COMMANDS.items()
    for method, parts in methods.items()
    for call in parts.get("stage_sweep", [])
]
"""The arguments of ``stage_sweep`` as they stand in the scripts, within the shell's ``'``, which end for a variable."""
ORDER = "oarlks"


def published_call(method: str) -> str:
    (call,) = COMMANDS[f"{SETTING} {ORDER} 1"][method]["stage_sweep"]
    return f"stage_sweep({call})"


@pytest.fixture(scope="session")
def finished(swept_once: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``$ROOT`` with finished runs of ``ft`` and ``ewc`` along a published order, and the multitask model."""
    root = tmp_path_factory.mktemp("published")
    save = str(root / places.SAVE)
    weights = torch.load(swept_once.checkpoint("l"), weights_only=True)
    for method, own_first in (("ft", False), ("ewc", True)):
        for seed, path in enumerate(checkpoints(SETTING, ORDER, method, save, regularised=own_first).values()):
            write_blurred(weights, path, seed)
    write_blurred(weights, Path(places.final_weights(places.multitask_folder(SETTING, save))), 9)
    return root


def shell(project: Path, root: Path, data: Path, call: str) -> list[str]:
    """Run a line of a published script, after the lines that set ROOT and DEVICE; what it prints."""
    script = f"ROOT={root}\nDEVICE=0\npython -c 'from eval_os import *; {call}'\n"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CONFIG": "EXP_CONFIG/mini", "CLOVE_ROOT": str(data)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=project, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("method", ["ft", "ewc"])  # they quote the device in two ways
def test_a_published_script_ends_with_the_closing_lines(
    project: Path, finished: Path, clove_mini: Path, method: str
) -> None:
    lines = shell(project, finished, clove_mini, published_call(method))
    run = places.run_folder(SETTING, ORDER, f"val_{method}", str(finished / places.SAVE))
    kept = read_sweep(run)
    assert len(kept.accuracies) == 36 and any(kept.accuracies.values())
    assert lines[0].split() == ["learned", "\\", "tested", *(task.name for task in kept.tasks)]
    assert lines[-3:] == kept.published_lines()
    assert [line.split(":")[0] for line in lines[-3:]] == [
        f"==> textvqa_accuracy | {what}" for what in ("Final acc", "Backward transfer", "Forgetting")
    ]


def test_the_published_call_of_the_multitask_model(project: Path, finished: Path, clove_mini: Path) -> None:
    call = 'test_multi_task(device=\'${DEVICE}\', cl_setting="functional", model_name="unicl", '
    call += "save_dir=\"'${ROOT}'/exp/clvqa\")"
    lines = shell(project, finished, clove_mini, call)
    assert [line.split()[0] for line in lines[2:8]] == [
        "object", "attribute", "relation", "logical", "knowledge", "scenetext"
    ]  # fmt: skip


def test_the_published_call_of_the_chance_level(project: Path, finished: Path, clove_mini: Path) -> None:
    lines = shell(project, finished, clove_mini, 'test_chance("scene")')
    assert [line.split()[0][:2] for line in lines[2:8]] == [f"{letter}#" for letter in "abcdef"]


@pytest.mark.parametrize("call", CALLS)
def test_every_published_call_names_a_place_of_ours(call: str) -> None:
    words = string.Template(call.replace("'", "")).substitute(ROOT="/root", DEVICE="0")
    given: dict[str, Any] = eval(f"dict({words})")
    found = inspect.signature(eval_os.stage_sweep).bind(**given).arguments
    setting, order = found["cl_setting"], found["abbr_seq"]
    assert found["setting_idx"] == order_index(setting, order) and found["model_name"] == places.MODEL
    assert found["device"] in (0, "0") and not found["test_stand_alone"]
    save = save_folder(found["save_dir"])
    first, *others = checkpoints(setting, order, found["val_exp"], save, regularised=found["test_reg"]).values()
    run = Path(f"/root/exp/clvqa/save/{setting}/setting_{found['setting_idx']}_{order}/{found['val_exp']}")
    assert {path.parents[1] for path in others} == {run}
    assert first.parents[1] == (run if found["test_reg"] else Path(f"/root/exp/clvqa/save/stand_alone/{setting}"))


@pytest.mark.parametrize(
    "given", ["/root/exp/clvqa", "/root/exp/clvqa/", "/root/exp/clvqa/save", "/root/exp/clvqa/save/"]
)
def test_save_dir_is_the_folder_of_experiments_or_its_save(given: str) -> None:
    assert save_folder(given) == "/root/exp/clvqa/save"
