"""Silence, while files are read, what the libraries that read them would say of their content."""

from __future__ import annotations

import logging
import threading
import warnings

_MODULES = r"PIL|pydicom|nibabel|regard\.media"
_LOGGER = "pydicom"
_NOTHING = logging.CRITICAL + 1


class _Quiet:
    """Silences Pillow, nibabel and pydicom while any thread reads.

    Pillow's warning about size is replaced by `max_pixels`, and odd metadata harms nobody.
    pydicom puts the values that it finds odd into its warnings and its log, and a patient's name
    is such a value. `warnings.catch_warnings` is one for the whole process: two readers that enter
    and leave it crosswise would leave the filter behind. So the first reader sets it, the last
    restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = warnings.catch_warnings()
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=_MODULES)
                logger = logging.getLogger(_LOGGER)  # and those below it, which take its level
                self._level = logger.level
                logger.setLevel(_NOTHING)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._saved.__exit__(None, None, None)
                logging.getLogger(_LOGGER).setLevel(self._level)


quiet = _Quiet()
