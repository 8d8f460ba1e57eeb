"""Peak memory of a process that does one task only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.util.child_python import python_command, python_environment

_STATUS = Path("/proc/self/status")

_CHILD = """
import importlib, json, sys
import torch
torch.set_num_threads(int(sys.argv[4]))
from benchmarks.memory import peak
before = peak()
module, name = sys.argv[1], sys.argv[2]
getattr(importlib.import_module(module), name)(**json.loads(sys.argv[3]))
sys.stdout.write(str(peak() - before))
"""


def peak() -> int:
    """Return this process's largest resident memory so far, in bytes."""
    if _STATUS.exists():
        # Not getrusage: its value is inherited from the process that started this one.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak_of(module: str, name: str, arguments: dict[str, Any], threads: int) -> float:
    """Return the peak memory of a function in its own process, in MB (10^6 bytes).

    The memory after `import torch` is subtracted; that of regard's own modules is not.

    Args:
        module: module of the function.
        name: name of the function.
        arguments: by keyword; plain values.
        threads: number of threads of torch.

    Raises:
        RegardError: the process failed.
    """
    command = python_command("-c", _CHILD, module, name, json.dumps(arguments), str(threads))
    environment = python_environment(None, Path(__file__).resolve().parents[1])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RegardError(f"the process that measures the memory of {name} failed: {last}")
    return float(done.stdout) / 1e6


def peaks_of(
    module: str, name: str, implementations: Iterable[str], work: dict[str, Any], threads: int
) -> dict[str, float]:
    """Return the peak of each implementation; the function takes its name and the work."""
    return {
        one: peak_of(module, name, {"name": one, "work": work}, threads) for one in implementations
    }
