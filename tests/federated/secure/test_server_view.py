"""What the server sees of one vector is chance: tests of uniformity and of independence.

Entropy is injected, so that a run repeats; the bounds are far from what chance gives (p = 1e-4),
and each test is shown to fail where there is no mask.
"""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from scalerec.federated.secure import FixedPoint, SumClient, SumPlan, SumServer
from scalerec.federated.secure.masks import words_to_bytes
from scalerec.federated.secure.messages import MaskedVector

CHANCE = 1e-4
LENGTH = 50_000
Bytes = NDArray[np.uint8]


def masked(vectors: NDArray[np.float64], seed: int) -> tuple[list[Bytes], list[Bytes]]:
    """Each party's vector in the open and as the server gets it, as bytes ``[length, 3]``."""
    encoding = FixedPoint(num_parties=len(vectors), bits=20)
    entropy = np.random.default_rng(seed).bytes
    plan = SumPlan.new(
        num_parties=len(vectors),
        length=vectors.shape[1],
        modulus_bits=encoding.width,
        entropy=entropy,
    )
    words = [encoding.encode(vector).words for vector in vectors]
    clients = [SumClient(plan, party, entropy=entropy) for party in range(len(vectors))]
    server = SumServer(plan, entropy=entropy)
    keys = server.collect_keys(client.advertise_keys() for client in clients)
    shares = server.collect_shares([clients[p].share_keys(text) for p, text in keys.items()])
    texts = [clients[p].mask_vector(text, words[p]) for p, text in shares.items()]
    seen = [MaskedVector.from_bytes(text, plan.session).numbers for text in texts]
    size = encoding.width // 8
    return (
        [np.frombuffer(words_to_bytes(w, 8 * size), np.uint8).reshape(-1, size) for w in words],
        [np.frombuffer(text, np.uint8).reshape(-1, size) for text in seen],
    )


def inputs(kind: str) -> NDArray[np.float64]:
    generator = np.random.default_rng(11)
    rows: Mapping[str, NDArray[np.float64]] = {
        "zeros": np.zeros((3, LENGTH)),
        "ones": np.ones((3, LENGTH)),
        "alike": np.repeat(generator.uniform(-1, 1, (1, LENGTH)), 3, axis=0),
        "small": generator.normal(0, 1e-4, (3, LENGTH)),
    }
    return rows[kind]


def uniform_p(seen: Bytes) -> float:
    """Chi-square of byte counts, the smallest p of all places of a word, times their number."""
    ps = [float(stats.chisquare(np.bincount(column, minlength=256)).pvalue) for column in seen.T]
    return min(ps) * len(ps)


def independent_p(seen: Bytes, vector: Bytes) -> float:
    """Chi-square of upper halves of bytes: is what is seen another where the vector is another?"""
    ps = []
    for left, right in zip(seen.T >> 4, vector.T >> 4, strict=True):
        table = np.zeros((16, 16))
        np.add.at(table, (left, right), 1)
        table = table[:, table.sum(0) > 100]
        table = table[table.sum(1) > 0]
        ps.append(float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0)
    return min(ps) * len(ps)


@pytest.mark.parametrize("kind", ["zeros", "ones", "alike", "small"])
def test_a_masked_vector_is_uniform_whatever_is_under_it(kind: str) -> None:
    opened, seen = masked(inputs(kind), seed=1)
    for vector, view in zip(opened, seen, strict=True):
        assert uniform_p(view) > CHANCE
        assert independent_p(view, vector) > CHANCE
        words = view[:, 0] + 256.0 * view[:, 1] + 65536.0 * view[:, 2]
        assert float(stats.kstest(words / 2**24, "uniform").pvalue) > CHANCE
    # The tests have teeth: the vectors in the open fail them.
    assert uniform_p(opened[0]) < 1e-100
    if kind in ("alike", "small"):
        assert independent_p(opened[0], opened[0]) < 1e-100


def test_views_of_two_inputs_cannot_be_told_apart() -> None:
    _, first = masked(inputs("zeros"), seed=2)
    _, second = masked(inputs("ones"), seed=3)
    for left, right in zip(first, second, strict=True):
        table = np.stack([np.bincount(view.ravel(), minlength=256) for view in (left, right)])
        assert float(stats.chi2_contingency(table).pvalue) > CHANCE
        assert float(stats.ks_2samp(left[:, -1], right[:, -1]).pvalue) > CHANCE


def test_views_of_two_parties_tell_nothing_of_each_other() -> None:
    # Two parties share one mask with opposite signs; their own masks hide that it cancels.
    _, seen = masked(inputs("alike"), seed=4)
    assert independent_p(seen[0], seen[1]) > CHANCE
    both = (seen[0].astype(np.uint16) + seen[1]).astype(np.uint8)
    assert uniform_p(both[:, :1]) > CHANCE


def test_the_same_vector_looks_different_each_time() -> None:
    _, first = masked(inputs("alike"), seed=5)
    _, second = masked(inputs("alike"), seed=6)
    # One byte in 256 is the same by chance: five standard deviations of 150,000 coins.
    share = float((first[0] == second[0]).mean())
    assert abs(share - 1 / 256) < 5 * np.sqrt(1 / 256 / first[0].size)
