"""The documentation says what is there: options, extras, commands and code that run."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from typer.main import get_command

from regard.cli.main import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "regard"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
EXPERIMENTS = [p for p in (DOCS / "experiments").glob("*.md") if p.name != "index.md"]
NAMING_FILES = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks/README.md",
]
COMMAND = get_command(app)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks in a language; pages take code from the source by `--8<--`."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [block for block in found if "--8<--" not in block]


def shell_commands() -> list[Any]:
    commands: list[Any] = []
    for page in PAGES:
        dated = re.findall(r"^\d{4}-\d\d-\d\d · .*", page.read_text("utf-8"), re.M)
        inline = re.findall(r"`([^`]+)`", "\n".join(dated))
        text = "\n".join(blocks(page, "console") + blocks(page, "") + inline)
        for line in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?regard (.*)$", text, re.M):
            commands += [pytest.param(shlex.split(line, comments=True), id=f"{page.name}: {line}")]
    return [c for c in commands if "[OPTIONS]" not in c.id]


def every_command(command: Any = COMMAND, name: str = "regard") -> dict[str, Any]:
    found = {name: command}
    for child, inner in getattr(command, "commands", {}).items():
        found |= every_command(inner, f"{name} {child}")
    return found


@pytest.mark.parametrize("name", every_command())
def test_every_option_is_in_the_command_reference(name: str) -> None:
    text = (DOCS / "cli.md").read_text("utf-8")
    section = re.search(rf"^#+ `{name}`\n(.*?)(?=^#+ `|\Z)", text, re.M | re.S)
    assert section is not None, f"docs/cli.md has no section `{name}`; `make docs` writes it"
    for parameter in every_command()[name].params:
        for option in (o for o in parameter.opts if o.startswith("--")):
            listed = rf"^\* `(?:[^`]*, )?{option}[ `,]"
            assert re.search(listed, section[1], re.M), f"{name} {option}: see `make docs`"


def test_the_command_reference_is_up_to_date() -> None:
    command = ["-m", "typer", "regard.cli.main", "utils", "docs", "--name", "regard"]
    made = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    wanted = (DOCS / "cli.md").read_text("utf-8")
    assert made.stdout.strip() == wanted.strip(), "`make docs` writes docs/cli.md anew"


@pytest.mark.parametrize("arguments", shell_commands())
def test_commands_in_the_documentation_parse(arguments: list[str]) -> None:
    command, name = COMMAND, "regard"
    while hasattr(command, "commands") and not arguments[0].startswith("-"):
        name, *arguments = arguments
        assert name in command.commands
        command = command.commands[name]
    if hasattr(command, "commands"):
        assert arguments[0] in {o for p in command.params for o in p.opts}
        return
    context = command.make_context(name, arguments)
    assert context.params


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=page_name)
def test_python_in_the_documentation_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "examples" / "dog.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


def test_every_extra_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (DOCS / "install.md").read_text("utf-8")
    explained = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert explained == set(project["optional-dependencies"])


@pytest.mark.parametrize("page", NAMING_FILES, ids=page_name)
def test_files_named_in_the_documentation_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for path in re.findall(r"`((?:src|tests|docs|benchmarks|examples|projects)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "::: " in p.read_text("utf-8")], ids=page_name
)
def test_names_that_pages_document_exist(page: Path) -> None:
    for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M):
        assert resolve_name(name) is not None


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "--8<--" in p.read_text("utf-8")], ids=page_name
)
def test_source_that_pages_include_exists(page: Path) -> None:
    for path, section in re.findall(r'^--8<-- "([^":]+):?(\w*)"$', page.read_text("utf-8"), re.M):
        found = [base / path for base in (ROOT / "src" / "regard", ROOT) if (base / path).exists()]
        assert found, path
        assert f"[start:{section}]" in found[0].read_text("utf-8") or not section, section


def test_the_picture_of_the_architecture_shows_every_package() -> None:
    shown = set(
        re.findall(r">([\w.]+)</text>", (DOCS / "assets/architecture.svg").read_text("utf-8"))
    )
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    modules = {path.name for path in SOURCE.glob("*.py") if not path.name.startswith("_")}
    assert folders | modules <= shown, "run python -m tests.helpers.draw_architecture"


def test_files_and_functions_of_the_architecture_page_exist() -> None:
    page = (DOCS / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.*?) \|", page, re.M)
    assert len(rows) > 50
    for path, functions in rows:
        text = (SOURCE / path).read_text("utf-8")
        for name in re.findall(r"`([\w.]+)`", functions):
            assert all(re.search(rf"\b{part}\b", text) for part in name.split(".")), (path, name)


def test_citation_names_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", text, re.M) == [project["version"]]


def test_pages_stand_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert re.search(rf"[ :]{re.escape(page.relative_to(DOCS).as_posix())}$", navigation, re.M)


@pytest.mark.parametrize("page", EXPERIMENTS, ids=page_name)
def test_experiments_have_a_date_and_a_command(page: Path) -> None:
    entries = re.findall(r"^### .*\n+(.*)", page.read_text("utf-8"), re.M)
    assert entries
    for line in entries:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d · (command not recorded|`[^`]+`(, `[^`]+`)*)", line)
        for path in re.findall(r"(?:tests|projects)/[\w/.]+", line):
            assert (ROOT / path).exists(), path


def test_readme_shows_the_way_in_its_first_lines() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()[:15]
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("![") for line in lines)
