"""What processes say to each other."""

import pytest
from tests.distributed.workers import run

from scalerec.distributed import join_group


@pytest.mark.parametrize("shared", [True, False])
def test_messages_by_hand(shared: bool) -> None:
    """Through shared memory, and through sockets."""
    found = run(3, "messages", shared=shared)
    for rank, own in enumerate(found):
        assert own["total"] == [3.0, 3.0]
        assert own["counts"] == [1, 2, 3]
        # Of process r: its stretch for this one.
        rows = [100 * r + rank * (r + 1) + i for r in range(3) for i in range(r + 1)]
        assert own["exchanged"] == rows
        assert own["gathered"] == [[], [1], [2, 2]]
        assert own["facts"] == [{"name": f"process {r}", "é": [r]} for r in range(3)]
        # Two of three stretches of int64 leave; what the others send comes.
        assert own["sent"]["rows"] == 2 * (rank + 1) * 8
        assert own["received"]["rows"] == (6 - (rank + 1)) * 8
        # Two float32 by the ring: 2 * 2 / 3 of 8 bytes.
        assert own["sent"]["test"] == own["received"]["test"] == 10


def test_one_process_needs_no_launcher() -> None:
    with join_group() as group:
        assert (group.rank, group.world) == (0, 1)
        group.wait()
    assert group.traffic.sent == {}
