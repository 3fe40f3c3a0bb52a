"""`torchrun ... -m scalerec.distributed ARGS`: one process of `scalerec train ARGS`."""

import sys

from scalerec.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
