"""`torchrun ... -m scalerec.distributed ARGS`: one process of `scalerec train ARGS`.

After `--verb=meta-train`, as the first word, of `scalerec meta-train ARGS`.
"""

import os
import sys

from scalerec.cli.main import main
from scalerec.distributed.member import VERB, end_with_launcher

if __name__ == "__main__":
    end_with_launcher()
    words = sys.argv[1:]
    verb = words.pop(0).removeprefix(VERB) if words and words[0].startswith(VERB) else "train"
    code = main([verb, *words], is_member=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: threads that wait for a process that is gone would hold this one up.
    os._exit(code)
