"""Python processes that this one starts, and those that train together with it.

`python -m` and `python -c` search the current folder before every installed package, so a file
`numpy.py` that lies beside somebody's pictures would run. A process started here does not.
"""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from regard.errors import ConfigError, MissingExtra

_HERE = str(Path(__file__).parents[2])
_NEEDED = frozenset((
    "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH",
    "PYTHONUTF8", "PYTHONWARNINGS", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "TZ", "USER",
    "VIRTUAL_ENV", "XDG_CACHE_HOME",
))  # fmt: skip
"""Variables that a process needs to start; none of them is a secret."""
_OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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


def ranks_in(environment: Mapping[str, str]) -> int:
    """Return the number of processes in the environment; 1 without the variables.

    Args:
        environment: variables RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as
            torchrun and `regard train --devices` set them.

    Raises:
        ConfigError: some of them are missing.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return 1
    world = int(environment["WORLD_SIZE"])
    missing = [name for name in _OF_RANKS if name not in environment]
    if world > 1 and missing:
        raise ConfigError(
            f"RANK and WORLD_SIZE are set, for {world} processes, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not. Start with torchrun or --devices, or set "
            "all five."
        )
    return world


def check_fabric() -> None:
    """Check that Lightning Fabric is installed.

    Raises:
        MissingExtra: it is not installed.
    """
    if find_spec("lightning_fabric") is None:
        raise MissingExtra("lightning-fabric", "devices", "training on several devices")
