"""`torchrun ... -m scalerec.distributed ARGS`: one process of `scalerec train ARGS`."""

import os
import sys

from scalerec.cli.main import main
from scalerec.distributed.member import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()
    code = main(["train", *sys.argv[1:]], is_member=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: threads that wait for a process that is gone would hold this one up.
    os._exit(code)
