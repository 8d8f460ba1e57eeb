"""Look for what is known to be unsafe in the code (bandit) and the packages (pip-audit); list them.

    python .ci/audit.py [bandit] [packages] [sbom]

All three where none is named. Exits 1 where anything is found. Where no service of known
vulnerabilities can be reached, that is said and is no finding.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SBOM = ROOT / "build" / "sbom.json"
_SERVICES = ("pypi", "osv")
_SECONDS = 300


def bandit() -> int:
    """Check the code; return 0 where nothing is found."""
    command = [sys.executable, "-m", "bandit", "-q", "-r", "src", "tests/fuzz", ".ci"]
    done = subprocess.run([*command, "-c", "pyproject.toml"], cwd=ROOT, check=False)
    print(f"bandit: {'clean' if done.returncode == 0 else 'see above'}")
    return done.returncode


def packages() -> int:
    """Ask for known vulnerabilities of the packages that are installed; return 1 where there are.

    A second service is asked where the first knows none of them.
    """
    for service in _SERVICES:
        text, status = judged(_asked(service))
        print(f"pip-audit, {service}: {text}")
        if status is not None:
            return status
    print("pip-audit: NOT AUDITED, for no service could be asked. Run `make audit` with a network.")
    return 0


def _asked(service: str) -> str:
    """Return what pip-audit answers, as JSON; "" where it does not."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off"]
    options = [f"--vulnerability-service={service}", "--skip-editable", "--timeout=10"]
    try:
        done = subprocess.run(
            [*command, *options],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def judged(answer: str) -> tuple[str, int | None]:
    """Return what an answer of pip-audit says, and the status; None where nothing was audited."""
    try:
        found: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return "no answer", None
    audited = [one for one in found if "vulns" in one]
    unknown = [one["name"] for one in found if "vulns" not in one]
    lines = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in "
        f"{', '.join(fault.get('fix_versions') or ['no version yet'])}"
        for one in audited
        for fault in one["vulns"]
    ]
    text = f"{len(audited)} of {len(found)} packages audited, {len(lines)} vulnerabilities"
    if unknown and audited:
        text += f"; not known there: {', '.join(unknown)}"
    text = "\n  ".join([text, *lines])
    return text, None if not audited else int(bool(lines))


def sbom() -> int:
    """Write what regard and all that is installed with it are, as CycloneDX JSON."""
    SBOM.parent.mkdir(exist_ok=True)
    write_sbom(SBOM)
    faults = faults_of(json.loads(SBOM.read_text("utf-8")))
    for fault in faults:
        print(f"sbom: {fault}")
    if not faults:
        print(f"sbom: {SBOM.relative_to(ROOT)}")
    return int(bool(faults))


def write_sbom(path: Path) -> None:
    """Write the list of the environment that this interpreter is of."""
    # The path as it is: behind its link lies the interpreter that the environment was made by.
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "-o", str(path), sys.executable]
    subprocess.run([*command, *options], cwd=ROOT, check=True)


def faults_of(listed: dict[str, Any]) -> list[str]:
    """Return what a list of components lacks."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    components = {one["name"].lower().replace("_", "-"): one for one in listed["components"]}
    wanted = [name.partition(">")[0].lower() for name in project["dependencies"]]
    faults = [f"{name} is not listed" for name in wanted if name not in components]
    faults += [f"{name} has no version" for name in wanted if not components.get(name, {}).get(
        "version") and name in components]  # fmt: skip
    if listed.get("bomFormat") != "CycloneDX":
        faults.append("it is no CycloneDX")
    if listed["metadata"].get("component", {}).get("name") != "regard":
        faults.append("it is not of regard")
    return faults


_STEPS: dict[str, Callable[[], int]] = {"bandit": bandit, "packages": packages, "sbom": sbom}


def main(names: list[str]) -> int:
    """Take the steps that are named, or all; return 1 where one finds anything."""
    statuses = [_STEPS[name]() for name in names or _STEPS]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
