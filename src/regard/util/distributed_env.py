"""Environment variables of distributed training. Does not import torch."""

from collections.abc import Mapping
from importlib.util import find_spec

from regard.errors import ConfigError, MissingExtra

_NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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
    missing = [name for name in _NEEDED if name not in environment]
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
