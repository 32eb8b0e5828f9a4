"""python -m scripts.benchmark: see `scripts.benchmark.run`."""

import sys

from scripts.benchmark.run import main

if __name__ == "__main__":
    sys.exit(main())
