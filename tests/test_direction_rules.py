"""Who may import whom: read from the source with `ast`, and proved in a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("orchestrator", "trainables", "search_spaces")
SOURCES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

SIBLINGS = {
    "orchestrator": {"trainables", "search_spaces"},
    "trainables": set(),
    "search_spaces": set(),
}
ONLY_IN = {
    "ray": {
        "orchestrator/cluster_room.py",
        "orchestrator/ray_cluster.py",
        "orchestrator/ray_executor.py",
        "trainables/tune_trainable.py",
    },
    "mlflow": {"orchestrator/mlflow_view.py"},
    "matplotlib": {
        f"orchestrator/{name}.py"
        for name in ("figures", "error_figures", "dynamics_figures", "map_figures", "figure_style", "figure_table")
    },
}
LIGHT_TRAINABLES = {
    f"trainables/{name}.py"
    for name in ("config", "result", "registry", "workload", "errors", "image_config", "image_data", "image_classifier")
}
HEAVY = ("torch", "ray", "numba", "mlflow", "matplotlib")


def imported_modules(source: str, package: str = "") -> set[str]:
    """Dotted names of everything a module imports, at any depth, also inside functions and by `import_module`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def imports(path: str) -> set[str]:
    return imported_modules((ROOT / path).read_text(), package=path.partition("/")[0])


def roots(path: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_the_reader_sees_every_kind_of_import() -> None:
    source = (
        "import a.b\nfrom c import d\nif x:\n    import e\n"
        "def f():\n    from g.h import i\n    import_module('j.k')\n    from . import l\n"
    )
    assert imported_modules(source, "p") == {"a.b", "c", "c.d", "e", "g.h", "g.h.i", "j.k", "p", "p.l"}


def test_there_is_something_to_read() -> None:
    assert {"trainables/config.py", "orchestrator/errors.py"} <= set(SOURCES)
    assert all((ROOT / path).is_file() for path in LIGHT_TRAINABLES)
    assert "torch" in roots("trainables/two_layer_cnn_reference.py")


@pytest.mark.parametrize("path", SOURCES)
def test_packages_import_only_the_siblings_they_may(path: str) -> None:
    package = path.partition("/")[0]
    assert roots(path) & set(PACKAGES) <= SIBLINGS[package] | {package}


@pytest.mark.parametrize("path", SOURCES)
def test_nobody_imports_launch_or_the_tests(path: str) -> None:
    assert not {name for name in imports(path) if name.startswith(("orchestrator.launch", "tests"))}


@pytest.mark.parametrize("path", SOURCES)
def test_heavy_libraries_stay_in_their_files(path: str) -> None:
    for library, files in ONLY_IN.items():
        assert library not in roots(path) or path in files, f"{path} imports {library}; only {sorted(files)} may"
    if {"torch", "torchvision"} & roots(path):
        assert path.startswith("trainables/")
        assert path not in LIGHT_TRAINABLES


def test_planning_a_workload_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from trainables.registry import WORKLOADS, config_from_values, workload\n"
        "values = dict(workload='two_layer_cnn', optimizer='adam', weight_decay=0, batch_size=2, seed=0)\n"
        "config = config_from_values(values)\n"
        "found = workload('two_layer_cnn')\n"
        "assert found.cost(config) > 0 and found.memory(config) > 0 and found.pack_key(config)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "[]\n"
