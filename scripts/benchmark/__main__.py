"""python -m scripts.benchmark: see `scripts.benchmark.run`."""

import sys

from scripts.benchmark.run import main
from scripts.door import guarded

if __name__ == "__main__":
    sys.exit(guarded(main))
