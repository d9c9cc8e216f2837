"""The structure: layers and their inner order, no circular imports, sizes, and what importing a module costs."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipelines", "operators", "models", "cluster")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_those_of_this_repository(name):
    assert Path(importlib.import_module(name).__file__).is_relative_to(ROOT)


def test_layers_and_the_order_within_them_hold():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": ".", "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


def imports_of(name, trees):
    """Modules of ours that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(trees[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {one for one in found if one in trees and one != name}


def circle_in(trees):
    """A circle of imports, or None."""
    graph = {name: imports_of(name, trees) for name in trees}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_module_imports_itself_by_a_detour_not_even_inside_a_function():
    assert circle_in(TREES) is None


def test_a_circle_would_be_found():
    trees = {"a": ast.parse("import b"), "b": ast.parse("def f():\n    from c import x"), "c": ast.parse("import a")}
    assert set(circle_in(trees)) == {"a", "b", "c"}


def lengths():
    """Lines of every function, longest first."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kinds)]
    return sorted(((n.end_lineno - n.lineno + 1, f"{name}.{n.name}") for name, n in nodes), reverse=True)


def test_functions_are_short_enough_to_read():
    found = lengths()
    assert found[0][0] <= 100, found[0]
    assert sum(length > 80 for length, _ in found) <= 5, found[:8]


def test_rooms_hold_a_dozen_files_at_most():
    for folder in {path.parent for path in MODULES.values()}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 14, folder


def test_there_is_no_junk_drawer():
    for path in MODULES.values():
        assert path.stem not in ("utils", "common", "helpers", "base", "misc"), path


def loaded_by(*modules):
    """Which heavy packages importing some modules brings in."""
    code = f"import sys, {', '.join(modules)}; print(sorted({{'ray', 'mlflow', 'torch'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_operators_and_models_load_without_ray_mlflow_and_without_torch_where_they_need_none():
    light = (
        "operators.simulate.render",
        "operators.simulate.converse",
        "operators.corpus.manifest",
        "operators.store.dataset",
        "models.codecs.dmel",
        "models.layouts",
        "models.config.header",
    )
    assert loaded_by(*light) == "[]"


def test_what_only_asks_loads_no_torch_ray_or_mlflow():
    """It costs seconds to import them; recipes, plans, lineage and help have no use for it."""
    assert (
        loaded_by("pipelines.__main__", "pipelines.stages", "pipelines.inspect.plan", "pipelines.inspect.lineage")
        == "[]"
    )


def test_nothing_persisted_is_a_pickle():
    for path in MODULES.values():
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "torch.save" not in text, path
        assert "torch.load" not in text, path
