"""Stretches of a log: the compiled copy is the plain one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.stretches import copy_stretches


@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(0, 50))
def test_the_copy_is_that_of_slices(seed: int, num_rows: int) -> None:
    numbers = np.random.default_rng(seed)
    items = numbers.integers(0, 9, 40).astype(np.int32)
    ids = numbers.integers(0, 1000, 9).astype(np.int32)
    starts = numbers.integers(0, 40, num_rows)
    lengths = numbers.integers(0, 41 - starts)
    ends = starts + lengths
    parts = [ids[items[start:end]] for start, end in zip(starts, ends, strict=True)]
    found = copy_stretches(items, ids, starts, lengths)
    assert found.dtype == np.int64
    assert found.tolist() == np.concatenate([np.zeros(0, np.int32), *parts]).tolist()
