"""Installs the plugin ``mmclvqa`` with the console scripts ``mmf_run`` and ``mmf_predict``.

MMF itself is not among the requirements, because it pins versions of 2020; ``make install`` and the README install it
with ``--no-deps``. MMF's distribution contains console scripts of the same names. A start-up file is therefore
installed as well, with which MMF's scripts also start this project's entry points.
"""

import base64
import hashlib
import re
import warnings
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
STARTUP = "mmclvqa_startup.pth"


def requirements() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def version() -> str:
    text = (ROOT / "mmclvqa" / "__init__.py").read_text()
    return re.search(r'__version__ = "(.+)"', text).group(1)


def add_startup_file(dist_dir: str) -> None:
    """Add the start-up file to the newest wheel in a folder, beside its packages.

    setuptools has no option for a file at the top level of site-packages that works for regular and editable wheels.
    """
    wheel = max(Path(dist_dir).glob("mmclvqa-*.whl"), key=lambda path: path.stat().st_mtime)
    content = (ROOT / STARTUP).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(wheel) as built:
        members = {info: built.read(info) for info in built.infolist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as rebuilt:
        rebuilt.writestr(STARTUP, content)
        for info, data in members.items():
            if info.filename.endswith(".dist-info/RECORD"):
                data = f"{STARTUP},sha256={digest},{len(content)}\n".encode() + data
            rebuilt.writestr(info, data)


class BdistWheel(bdist_wheel):
    def run(self) -> None:
        super().run()
        add_startup_file(self.dist_dir)


class EditableWheel(editable_wheel):
    def run(self) -> None:
        # setuptools warns that folders of the project may be imported by their names, which is intended.
        with warnings.catch_warnings(action="ignore"):
            super().run()
        add_startup_file(self.dist_dir)


setup(
    name="mmclvqa",
    version=version(),
    description="Symbolic Replay: scene graph as prompt for continual learning on VQA, as an MMF plugin",
    license="BSD-3-Clause",
    python_requires=">=3.11",
    packages=find_packages(include=["mmclvqa", "mmclvqa.*", "sg_generation"]),
    package_data={
        "mmclvqa": [
            "configs/**/*.yaml",
            "settings/*.yaml",
            "evaluation/published.json",
            "evaluation/report.html",
            "experiments/workflow/*",
            "mini/weights/*.safetensors",
        ]
    },
    install_requires=requirements(),
    entry_points={"console_scripts": ["mmf_run = mmclvqa.cli:run", "mmf_predict = mmclvqa.cli:predict"]},
    cmdclass={"bdist_wheel": BdistWheel, "editable_wheel": EditableWheel},
)
