"""Experiments in a folder use the same generated data, whether scripts or the workflow run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmclvqa import cli
from mmclvqa.clove.data_root import MANIFEST
from mmclvqa.clove.errors import ConfigError
from mmclvqa.experiments.root import MADE_WITH, check_root, make_mini

SCRIPT = "run_scripts/mmclvqa/multitask/F_multitask.sh"


def generated(folder: Path, content: str = "{}") -> Path:
    """Return a folder of generated data."""
    folder.mkdir()
    (folder / MANIFEST).write_text(content)
    return folder


def with_experiments(folder: Path) -> Path:
    """Return a folder with a model of unknown data."""
    (folder / "exp/clvqa/save").mkdir(parents=True)
    (folder / "exp/clvqa/save/unicl_final.pth").write_text("weights")
    return folder


def test_a_new_root_is_marked_and_then_takes_only_the_same_data(tmp_path: Path) -> None:
    root, first, second = tmp_path / "root", generated(tmp_path / "a"), generated(tmp_path / "b", "[]")
    check_root(root, first)
    check_root(with_experiments(root), first)
    different = f"^{root}: its experiments used different data than CLOVE_ROOT={second}; correct"
    with pytest.raises(ConfigError, match=different):
        check_root(root, second)
    with pytest.raises(ConfigError, match=f"^CLOVE_ROOT={tmp_path / 'aa'}: there is no such folder"):
        check_root(root, tmp_path / "aa")
    (tmp_path / "published").mkdir()
    with pytest.raises(ConfigError, match="different data"):
        check_root(root, tmp_path / "published")


def test_experiments_on_published_data_need_no_mark(tmp_path: Path) -> None:
    root = with_experiments(tmp_path / "root")
    check_root(root, tmp_path / "published")
    assert not (root / MADE_WITH).exists()


def test_experiments_of_unknown_data_are_kept_by_copying_the_manifest(tmp_path: Path) -> None:
    root, data = with_experiments(tmp_path / "root"), generated(tmp_path / "data")
    with pytest.raises(ConfigError) as refused:
        check_root(root, data)
    pattern = rf"if its experiments used CLOVE_ROOT={data}, copy (\S+) to (\S+); otherwise choose"
    source, target = re.search(pattern, str(refused.value)).groups()
    Path(target).write_bytes(Path(source).read_bytes())
    check_root(root, data)


def test_a_training_by_hand_does_not_close_a_root_to_scripts(
    clove_mini: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    words = "config=EXP_CONFIG/mini/functional/cl_object_unicl_standalone.yaml model=unicl dataset=clvqa run_type=train"
    words += " training.device=cpu training.max_updates=1 training.batch_size=8"
    monkeypatch.chdir(project)
    monkeypatch.setenv("ROOT", str(root))
    monkeypatch.setenv("CLOVE_ROOT", str(clove_mini))
    cli.run(words.split())
    save = root / "exp/clvqa/save"
    [config] = save.rglob("config.yaml")
    copy = generated(tmp_path / "copy", (clove_mini / MANIFEST).read_text())
    with pytest.raises(ConfigError, match="their data is unknown"):
        check_root(root, copy)  # the configuration names another folder
    check_root(root, clove_mini, mark=False)
    assert not (root / MADE_WITH).exists()
    began = config.stat().st_mtime
    os.utime(config, (0, 0))
    with pytest.raises(ConfigError, match="their data is unknown"):
        check_root(root, clove_mini)  # the data was generated after the training
    os.utime(config, (began, began))
    (save / "other").mkdir()
    shutil.copy(config.with_name("unicl_final.pth"), save / "other")
    with pytest.raises(ConfigError, match="their data is unknown"):
        check_root(root, clove_mini)  # a model without a configuration
    shutil.rmtree(save / "other")
    check_root(root, clove_mini)
    assert (root / MADE_WITH).read_bytes() == (clove_mini / MANIFEST).read_bytes()


def test_clove_mini_is_not_generated_among_other_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "functional").mkdir(parents=True)
    make_mini(data)
    assert [path.name for path in data.iterdir()] == ["functional"]


@pytest.mark.parametrize("used", ["same", "other"])
def test_a_script_marks_its_root_and_stops_at_one_of_other_data(
    project: Path, programs: dict[str, str], tmp_path: Path, used: str
) -> None:
    root, data = tmp_path / "a root", generated(tmp_path / "data")
    if used == "other":
        check_root(root, generated(tmp_path / "other", "[]"))
    environment = programs | {"ROOT": str(root), "CLOVE_ROOT": str(data), "MMF_ARGS": "run_type=nothing"}
    done = subprocess.run(["bash", project / SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert ("different data" in done.stderr) == (used == "other"), done.stderr
    if used == "same":
        assert "run_type=nothing" in done.stderr
        check_root(root, data)
