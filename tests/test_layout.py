"""The order of imports, the public names, what the base may need, what library code must not do."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import regard

SOURCE = Path(regard.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PROJECT = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
ORDER = [
    {"types", "errors", "config", "util", "text", "native", "version"},
    {"media", "recipes"},
    {"model", "pretrained"},
    {"backends"},
    {"decoding"},
    {"reliability", "checkpoint"},
    {"pipeline", "captioner", "model_pool"},
    {"data", "synthetic", "metrics", "export"},
    {"faithfulness"},
    {"explain"},
    {"audit"},
    {"training"},
    {"serve", "bulk"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MODULES = sorted(p for p in SOURCE.rglob("*.py") if p.name != "__main__.py")
OF_TRITON = "triton_"  # modules whose kernels cannot be read without it; nothing else needs them
MUST_NOT_CALL = {"print", "exit", "quit", "sys.exit", "os._exit", "breakpoint"}
GLOBAL_STATE = {"torch.manual_seed", "np.random.seed", "random.seed", "torch.set_default_device"}


def station(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Names that a module imports, at its top or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def called(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def imports_to_the_right(path: Path) -> list[str]:
    own = station(path)
    if own == "__init__":
        return []
    if own not in RANK:
        return [f"{own} has no place in the order of imports; give it one in ORDER"]
    stations = {name: name.split(".")[1] for name in imported(path) if name.startswith("regard.")}
    return [
        f"{path.relative_to(SOURCE)} imports {name}"
        for name, other in stations.items()
        if RANK.get(other, -1) > RANK[own]
    ]


def test_nothing_imports_to_its_right() -> None:
    assert not [wrong for path in MODULES for wrong in imports_to_the_right(path)]


def forbidden_calls(path: Path) -> list[str]:
    name = path.relative_to(SOURCE)
    found = called(path)
    wrong = found & MUST_NOT_CALL
    if "fork_rng" not in path.read_text("utf-8"):
        wrong |= found & GLOBAL_STATE
    wrong |= {"matplotlib.pyplot"} & imported(path)  # it holds global state
    return [f"{name} uses {one}" for one in wrong]


def test_library_code_neither_prints_nor_exits_nor_changes_global_state() -> None:
    library = [path for path in MODULES if station(path) != "cli"]
    assert not [wrong for path in library for wrong in forbidden_calls(path)]


def test_public_names() -> None:
    assert set(regard.__all__) <= {*dir(regard), *regard._LAZY}
    for name in regard.__all__:
        assert getattr(regard, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = regard.nothing


def test_importing_regard_and_the_command_line_do_not_wait_for_torch() -> None:
    code = "import sys, regard.cli.main, regard.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


IMPORT_ALL = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"{name} is an extra", name=name)

sys.meta_path.insert(0, Absent())
for module in sys.argv[2].split(","):
    importlib.import_module(module)
"""


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


TORCH = {*("export", "model", "training")}
"""Stations of the modules of torch; nothing that captions imports them before torch is wanted."""


OF_TORCH = {"torch_backend.py", "build.py", "functional.py", "teacher_forcing.py"}


def needs_torch(path: Path) -> bool:
    return station(path) in TORCH or path.name in OF_TORCH


@pytest.mark.parametrize("torch", [False, True], ids=["base", "base and torch"])
def test_every_module_imports_without_the_extras(torch: bool) -> None:
    extras = PROJECT["optional-dependencies"]
    optional = {distribution(r) for rs in extras.values() for r in rs}
    optional -= {distribution(r) for r in PROJECT["dependencies"]} | {"regard"}
    # torch needs setuptools itself on newer Pythons.
    optional -= {"setuptools"} | ({"torch"} if torch else set())
    absent = {
        name
        for name, owners in packages_distributions().items()
        if {o.lower().replace("_", "-") for o in owners} & optional
    }
    assert {"pycocoevalcap", "tokenizers", "tensorboard", "onnxscript"} <= absent
    assert ("torch" in absent) != torch
    modules = [
        ".".join(("regard", *p.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for p in MODULES
        if (torch or not needs_torch(p)) and not p.name.startswith(OF_TRITON)
    ]
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(absent), ",".join(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def unknown_extras(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"MissingExtra", "needs_extra"}:
            extra = node.args[1]
            if path.name == "errors.py" and ast.unparse(extra) == "extra":
                continue  # `needs_extra` passes on what its callers name
            if not isinstance(extra, ast.Constant) or (
                extra.value not in PROJECT["optional-dependencies"]
            ):
                found.append(f"{path.relative_to(SOURCE)}: {ast.unparse(extra)}")
    return found


def test_errors_name_extras_that_exist() -> None:
    assert not [wrong for path in MODULES for wrong in unknown_extras(path)]


def test_every_sample_has_its_source_and_licence() -> None:
    sources = (SOURCE / "samples" / "SOURCES.md").read_text("utf-8")
    listed = set(re.findall(r"^\| (\S+\.\w+) \|", sources, re.M))
    assert {p.name for p in (SOURCE / "samples").glob("[!.]*")} - {"SOURCES.md"} == listed
    assert len(listed) >= 2
