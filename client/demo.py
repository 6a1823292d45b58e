"""`python -m client.demo`, which `make demo` runs: the same as `mmsc demo`."""

import sys

from client.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
