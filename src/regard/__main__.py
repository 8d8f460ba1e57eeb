"""`python -m regard`."""

import os
import sys

# `python -m` searches the current folder first, where anybody's files may lie.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from regard.cli.main import main

if __name__ == "__main__":
    main()
