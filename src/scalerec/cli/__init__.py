"""The command line: one thin file a verb, loaded when the verb is called.

```text
prepare     raw tables -> data set          src/scalerec/data/
simulate    nothing -> tables, with truth   src/scalerec/data/simulate/
train       data set -> bundle              src/scalerec/train/
plan        machines -> memory, time        src/scalerec/distributed/planning/
tune        data set -> the best bundle     src/scalerec/tune/
federate    data set x parties -> bundle    src/scalerec/federated/
meta-train  data set -> a start that adapts src/scalerec/meta/
adapt       bundle x few rows -> bundle     src/scalerec/meta/
evaluate    bundle x data set -> metrics    src/scalerec/scoring/
recommend   bundle x user -> items          src/scalerec/scoring/
inspect     bundle -> what is in it         src/scalerec/bundle/
report      bundle -> a page                src/scalerec/report/
demo        the main job, start to end      src/scalerec/cli/demo.py
```

Exit codes: 0 done, 1 failed, 2 wrong usage. With `--json` standard output holds exactly one JSON
object; progress and errors go to standard error.
"""

from scalerec.cli.main import main

__all__ = ["main"]
