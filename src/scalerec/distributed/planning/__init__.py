"""What a run on machines that are not here would need: placement, memory, bytes, time.

```text
reads       how many distinct rows a batch reads
placing     where tables are kept
shape       what an example asks of a model
machine     what a machine does in a second; calibrate and messages measure it
job         what is to be planned
traffic     bytes by purpose        memory      bytes of a process
predict     time by part            advice      what would help
```
"""

from scalerec.distributed.planning.advice import Advice, advise
from scalerec.distributed.planning.job import Cluster, Job
from scalerec.distributed.planning.machine import (
    Machine,
    MessageCosts,
    RowCosts,
    read_machine,
    stored_machine,
    write_machine,
)
from scalerec.distributed.planning.placing import Choice, choose_placements, explain_placements
from scalerec.distributed.planning.predict import Prediction, predict, smallest_nodes
from scalerec.distributed.planning.reads import (
    TableReads,
    distinct_rows,
    layout_reads,
    measured_reads,
    total_distinct,
)
from scalerec.distributed.planning.shape import ModelShape, model_shape, plain_layout
from scalerec.distributed.planning.traffic import Sent, sent_bytes

__all__ = [
    "Advice",
    "Choice",
    "Cluster",
    "Job",
    "Machine",
    "MessageCosts",
    "ModelShape",
    "Prediction",
    "RowCosts",
    "Sent",
    "TableReads",
    "advise",
    "choose_placements",
    "distinct_rows",
    "explain_placements",
    "layout_reads",
    "measured_reads",
    "model_shape",
    "plain_layout",
    "predict",
    "read_machine",
    "sent_bytes",
    "smallest_nodes",
    "stored_machine",
    "total_distinct",
    "write_machine",
]
