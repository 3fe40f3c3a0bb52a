"""`torchrun ... -m scalerec.distributed ARGS`: one process of `scalerec train ARGS`."""

import sys

from scalerec.cli.main import main
from scalerec.distributed.member import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()
    sys.exit(main(["train", *sys.argv[1:]], is_member=True))
