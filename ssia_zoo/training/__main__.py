"""`python -m ssia_zoo.training …` and `accelerate launch -m ssia_zoo.training …`."""

import sys

from ssia_zoo.training.main import main

if __name__ == "__main__":  # spawned data loading workers import this module too
    sys.exit(main(prog="python -m ssia_zoo.training"))
