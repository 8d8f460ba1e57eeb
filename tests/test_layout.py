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
    {"pipeline", "streaming", "captioner", "model_pool"},
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

each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(SOURCE))
)


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


@each_module
def test_nothing_imports_to_its_right(path: Path) -> None:
    own = station(path)
    if own == "__init__":
        return
    assert own in RANK, f"{own} has no place in the order of imports; give it one in ORDER"
    allowed = {"explain"} if own == "types" else set()  # Caption.figure and _repr_html_
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "regard" or parts[1] in allowed or parts[1] not in RANK:
            continue
        assert RANK[parts[1]] <= RANK[own], f"{path.name} ({own}) imports {name}"


@each_module
def test_library_code_neither_prints_nor_exits(path: Path) -> None:
    if station(path) == "cli":
        return
    assert not called(path) & MUST_NOT_CALL
    if "fork_rng" not in path.read_text("utf-8"):
        assert not called(path) & GLOBAL_STATE
    assert "matplotlib.pyplot" not in imported(path), "pyplot holds global state"


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


OF_TORCH = {
    *("torch_backend.py", "torch_step.py", "build.py", "additive.py", "backward.py"),
    *("dispatch.py", "forward.py", "kernels.py", "linear.py", "plan.py", "product.py"),
    *("teacher_forcing.py", "vocabulary_loss.py"),
}


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


@each_module
def test_errors_name_extras_that_exist(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingExtra":
            extra = node.args[1]
            assert isinstance(extra, ast.Constant)
            assert extra.value in PROJECT["optional-dependencies"]


def test_every_sample_has_its_source_and_licence() -> None:
    sources = (SOURCE / "samples" / "SOURCES.md").read_text("utf-8")
    listed = set(re.findall(r"^\| (\S+\.\w+) \|", sources, re.M))
    assert {p.name for p in (SOURCE / "samples").glob("[!.]*")} - {"SOURCES.md"} == listed
    assert len(listed) >= 2
