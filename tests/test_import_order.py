"""The packages import in one direction."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
ORDER = ("clove", "methods", "datasets", "models", "training", "evaluation", "experiments")
"""Each package imports only itself and those before it; documented in docs/architecture.md."""
ALLOWED = {name: set(ORDER[: position + 1]) for position, name in enumerate(ORDER)}
ALLOWED["mini"] = {"clove", "mini"}
ALLOWED["SRM"] = {"clove", "mini", "SRM"}
# The command `python -m mmclvqa.clove mini` starts the generator.
ALLOWED["clove/__main__.py"] = {"clove", "mini"}


def imported(path: Path) -> Iterator[str]:
    """Yield the project's packages that a module imports, except for type checking only."""
    for node in ast.walk(without_type_checking(ast.parse(path.read_text()))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module] if node.module != "mmclvqa" else [f"mmclvqa.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "SRM":
                yield "SRM"
            elif top == "mmclvqa" and (PROJECT / "mmclvqa" / rest.partition(".")[0]).is_dir():
                yield rest.partition(".")[0]


def without_type_checking(tree: ast.Module) -> ast.Module:
    """Drop the blocks ``if TYPE_CHECKING:``."""
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    return tree


@pytest.mark.parametrize("package", [*ORDER, "mini", "SRM"])
def test_a_package_imports_only_what_lies_before_it(package: str) -> None:
    folder = PROJECT / "SRM" if package == "SRM" else PROJECT / "mmclvqa" / package
    for path in folder.rglob("*.py"):
        allowed = ALLOWED.get(f"{package}/{path.relative_to(folder)}", ALLOWED[package])
        assert set(imported(path)) - {""} <= allowed, path


def test_symbolic_replay_and_the_benchmark_package_do_not_import_mmf() -> None:
    for folder in (PROJECT / "SRM", PROJECT / "mmclvqa/clove", PROJECT / "mmclvqa/mini"):
        for path in folder.rglob("*.py"):
            assert "import mmf" not in path.read_text() and "from mmf" not in path.read_text(), path
