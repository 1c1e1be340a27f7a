"""Run the command `ssia-zoo` as `python -m ssia_zoo.cli`."""

import sys

from ssia_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
