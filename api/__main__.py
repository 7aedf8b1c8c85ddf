"""``python -m guiders`` is the ``guiders`` command."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
