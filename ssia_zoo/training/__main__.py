"""Run train_hf.py's command line as `accelerate launch -m ssia_zoo.training`."""

import sys

from ssia_zoo.training.main import main

if __name__ == "__main__":  # not in the processes that the data loader spawns
    sys.exit(main())
