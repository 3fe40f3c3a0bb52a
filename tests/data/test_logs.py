"""A history holds only what came strictly before."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.logs import build_log


@given(st.data())
def test_logs_against_a_slow_reference(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 40))

    def draw(most: int) -> np.ndarray:
        return np.array(
            data.draw(st.lists(st.integers(0, most), min_size=size, max_size=size)), int
        )

    users, items, times = draw(4), draw(8), draw(6)
    kept, is_train = draw(1).astype(bool), draw(1).astype(bool)
    log = build_log(users, items, times, kept, is_train, num_users=6)
    assert log.offsets[-1] == len(log.items) == kept.sum()
    for row in range(size):
        earlier = [
            other
            for other in range(size)
            if kept[other] and users[other] == users[row] and times[other] < times[row]
        ]
        start = log.offsets[users[row]]
        found = log.items[start : start + log.past[row]]
        earlier.sort(key=lambda other: (times[other], other))
        assert found.tolist() == items[earlier].tolist()
    for user in range(6):
        train = times[(users == user) & is_train]
        last = train.max(initial=-1)
        seen = kept & (users == user) & (times <= last)
        assert log.seen[user] == seen.sum()
        start = log.offsets[user]
        found = log.items[start : start + log.seen[user]]
        assert sorted(found.tolist()) == sorted(items[seen].tolist())
