"""Python processes that this one starts. They never import from the current folder.

`python -m` and `python -c` search the current folder before every installed package, so a file
`numpy.py` that lies beside somebody's pictures would run.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_HERE = str(Path(__file__).parents[2])
_NEEDED = frozenset((
    "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH",
    "PYTHONUTF8", "PYTHONWARNINGS", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "TZ", "USER",
    "VIRTUAL_ENV", "XDG_CACHE_HOME",
))  # fmt: skip
"""Variables that a process needs to start; none of them is a secret."""


def python_command(*arguments: str) -> list[str]:
    """Return the command of a Python process that does not search the current folder."""
    return [sys.executable, "-P", *arguments]


def python_environment(
    environment: Mapping[str, str] | None = None, *folders: str | Path
) -> dict[str, str]:
    """Return an environment in which Python imports this regard, and nothing of the current folder.

    Args:
        environment: variables to keep; None: those of this process.
        folders: searched before the others.
    """
    kept = dict(os.environ if environment is None else environment)
    searched = [*map(str, folders), _HERE, *searched_folders(kept.get("PYTHONPATH", ""))]
    kept |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(searched))}
    return kept


def searched_folders(text: str) -> list[str]:
    """Return the folders of a PYTHONPATH, absolute; names such as "" and "." are left out."""
    named = [part for part in text.split(os.pathsep) if part]
    here = os.getcwd()
    return [os.path.abspath(p) for p in named if os.path.isabs(p) or os.path.abspath(p) != here]


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return only the variables that a process needs to start: no keys, tokens or passwords."""
    return {k: v for k, v in environment.items() if k in _NEEDED or k.startswith("LC_")}
