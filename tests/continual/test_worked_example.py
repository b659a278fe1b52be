"""The method of docs/new_method.md, taken from the text, trains two tasks by the commands of the text."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import safetensors.torch
import torch
from method_runs import TINY, Methods

from mmclvqa import cli

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "new_method.md").read_text()


def test_the_worked_example_works(methods: Methods) -> None:
    package = methods.folder / "my_methods"
    package.mkdir()
    (package / "__init__.py").write_text(re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1])
    commands = re.findall(r"^    mmf_run (.*?[^\\])$", TEXT, re.DOTALL | re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        given = command.replace("\\\n", " ").replace("$ROOT", str(methods.folder))
        given = given.replace("env.user_dir=my_methods", f"env.user_dir={package}")
        words = shlex.split(given)
        cli.run([*words, *(word for word in TINY if not word.startswith("run_type"))])
    first, second = (
        safetensors.torch.load_file(methods.folder / "l2" / f"unicl_{task}" / "models" / "reg_params.safetensors")
        for task in ("object", "attribute")
    )
    omega = {name: value for name, value in first.items() if name.startswith("omega.")}
    # Four batches of 16 records; a parameter without a gradient has none.
    assert {float(number) for value in omega.values() for number in value.unique()} <= {0.0, 4 / 64}
    assert all(torch.equal(second[name], 2 * value) for name, value in omega.items() if "ocr" not in name)
