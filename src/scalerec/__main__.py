"""`python -m scalerec` is the command line."""

import sys

from scalerec.cli import main

if __name__ == "__main__":
    sys.exit(main())
