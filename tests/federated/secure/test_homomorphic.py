"""Sums of encrypted vectors: within their tolerance, and refused where they might wrap."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scalerec.errors import ConfigError, MissingExtraError, RoundError
from scalerec.federated.secure import (
    AddingServer,
    CkksPlan,
    EncryptingParty,
    KeyHolder,
    homomorphic_sum,
)

PLAN = CkksPlan(num_parties=3, limit=2.0)


@pytest.fixture(scope="module")
def holder() -> KeyHolder:
    return KeyHolder(PLAN)


@pytest.fixture
def server(holder: KeyHolder) -> AddingServer:
    return AddingServer(PLAN, holder.sum_key())


def encrypt(holder: KeyHolder, party: int, vector: list[float]) -> bytes:
    return EncryptingParty(PLAN, holder.public_key(), party).encrypt(np.array(vector))


@settings(max_examples=12)
@given(
    num_parties=st.integers(1, 6),
    length=st.sampled_from([1, 7, 2048, 2049, 5000]),
    limit=st.sampled_from([1e-6, 1.0, 3.0, 1e12]),
    seed=st.integers(0, 2**31),
)
def test_sums_are_within_the_tolerance(
    num_parties: int, length: int, limit: float, seed: int
) -> None:
    vectors = np.random.default_rng(seed).uniform(-limit, limit, (num_parties, length))
    vectors[:, 0] = limit  # the largest sum there may be
    plan = CkksPlan(num_parties=num_parties, limit=limit)
    found = homomorphic_sum(vectors, plan)
    assert np.abs(found.total - vectors.sum(0)).max() <= plan.tolerance
    assert found.members == tuple(range(num_parties))
    # Noise of 2^15 at a scale of 2^50 to 2^49, times the root of the parties.
    assert plan.tolerance <= limit * 2.0**-30


def test_a_hundred_parties_at_the_edge_of_the_range() -> None:
    plan = CkksPlan(num_parties=100, limit=1.0)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (1, 300))
    found = homomorphic_sum(np.repeat(signs, 100, axis=0), plan)
    # A wrapped sum would be off by the whole range.
    assert np.abs(found.total - 100 * signs[0]).max() <= plan.tolerance < 1e-7


def test_what_is_released_lies_on_the_grid() -> None:
    plan = CkksPlan(num_parties=2)
    total = homomorphic_sum(np.random.default_rng(2).uniform(-1, 1, (2, 100)), plan).total
    assert (total / plan.grid == np.rint(total / plan.grid)).all()


def test_numbers_out_of_range_are_clipped_and_counted_or_refused() -> None:
    vectors = np.array([[0.5, 4.0], [-9.0, 1.0]])
    found = homomorphic_sum(vectors, PLAN)
    assert found.num_clipped == 2
    assert np.abs(found.total - [-1.5, 3.0]).max() <= PLAN.tolerance
    with pytest.raises(RoundError, match=r"1 of 2 numbers are outside \[-2, 2\]"):
        homomorphic_sum(vectors, replace(PLAN, beyond="refuse"))
    with pytest.raises(RoundError, match="1 of 1 numbers are not finite"):
        homomorphic_sum([np.array([np.nan])], PLAN)


def test_who_drops_out_is_not_in_the_sum_and_bytes_are_counted() -> None:
    vectors = np.array([[1.0], [0.5], [0.25]])
    found = homomorphic_sum(vectors, PLAN, dropouts=[1])
    assert found.members == (0, 2)
    assert abs(float(found.total[0]) - 1.25) <= PLAN.tolerance
    assert found.traffic.up[1] == 0
    # Two polynomials of 4096 numbers of 54 bits, compressed to about 62,000 bytes.
    assert 55_000 < found.traffic.up[0] < 75_000
    assert 110_000 < found.traffic.down.min() < 150_000
    with pytest.raises(RoundError, match="there is no vector to be summed"):
        homomorphic_sum(vectors, PLAN, dropouts=[0, 1, 2])


def test_the_sum_cannot_grow_beyond_the_plan(holder: KeyHolder, server: AddingServer) -> None:
    for party in range(3):
        server.add(encrypt(holder, party, [2.0]))
    with pytest.raises(
        RoundError, match=r"room for 3 vectors; party 3 sent one more, .* might wrap"
    ):
        server.add(encrypt(holder, 3, [2.0]))
    assert abs(holder.decrypt(server.total())[0] - 6.0) <= PLAN.tolerance


def test_a_message_that_does_not_fit_leaves_the_sum_as_it_is(
    holder: KeyHolder, server: AddingServer
) -> None:
    server.add(encrypt(holder, 0, [1.0, -1.0]))
    good = encrypt(holder, 1, [0.5, 0.5])
    # Thousands of bytes in another order are no ciphertext; a few may be one, by chance.
    flipped = good[:20_000] + good[20_000:50_000][::-1] + good[50_000:]
    swapped = good[:26] + (1).to_bytes(8, "little") + good[34:]
    for text, message in (
        (encrypt(holder, 0, [1.0, 1.0]), "party 0 sent a second vector"),
        (encrypt(holder, 1, [1.0]), "vectors of this sum have 2 numbers; party 1 sent 1"),
        (encrypt(KeyHolder(PLAN), 1, [1.0, 1.0]), "an encrypted vector was made with the key "),
        (good[:20], "an encrypted vector has 34 bytes of header; got 20 bytes"),
        (good[:500], "an encrypted vector is cut short"),
        (good[:34], "an encrypted vector of 2 numbers has 1 ciphertexts; got 0"),
        (b"HTTP" + good[4:], r"starts with b'SCHE', version 1; got b'HTTP', 1"),
        (flipped, "ciphertext 0 does not fit the key: "),
        (swapped, "vectors of this sum have 2 numbers; party 1 sent 1"),
        (server.total(), "an encrypted vector was expected; got an encrypted sum"),
    ):
        with pytest.raises(RoundError, match=message):
            server.add(text)
    with pytest.raises(RoundError, match="an encrypted sum was expected; got an encrypted vector"):
        holder.decrypt(good)
    server.add(good)
    assert np.abs(holder.decrypt(server.total()) - [1.5, -0.5]).max() <= PLAN.tolerance
    first = AddingServer(PLAN, holder.sum_key())
    with pytest.raises(RoundError, match="ciphertext 0 must hold 1 numbers; got 2"):
        first.add(swapped)


def test_another_plan_cannot_be_mixed_in(holder: KeyHolder, server: AddingServer) -> None:
    # Twice the parties, half the scale: the numbers would count double.
    server.add(encrypt(holder, 0, [1.0]))
    other = EncryptingParty(CkksPlan(num_parties=9, limit=2.0), holder.public_key(), 1)
    with pytest.raises(RoundError, match="party 1 cannot be added: scale mismatch"):
        server.add(other.encrypt(np.array([1.0])))


def test_the_server_holds_no_key(holder: KeyHolder, server: AddingServer) -> None:
    assert not server._context.has_secret_key()
    assert not server._context.has_public_key()
    party = EncryptingParty(PLAN, holder.public_key(), 0)
    assert not party._context.has_secret_key()
    with pytest.raises(RoundError, match="a public key is needed to encrypt; got settings without"):
        EncryptingParty(PLAN, holder.sum_key(), 0)
    secret = holder._context.serialize(save_secret_key=True)
    with pytest.raises(RoundError, match="the server must not hold the secret key"):
        AddingServer(PLAN, bytes(16) + secret)
    with pytest.raises(RoundError, match=r"a sum key of TenSEAL was expected; got 6 bytes"):
        AddingServer(PLAN, b"secret")


def test_a_ciphertext_looks_the_same_whatever_is_in_it(holder: KeyHolder) -> None:
    # The coefficients are uniform below the modulus; their upper bytes hang on the modulus alone.
    counts = []
    for value in (0.0, 2.0):
        text = encrypt(holder, 0, [value] * 2048)
        counts.append(np.bincount(np.frombuffer(text[1000:], np.uint8), minlength=256))
    assert float(stats.chi2_contingency(np.stack(counts)).pvalue) > 1e-6
    assert encrypt(holder, 0, [1.0])[2000:] != encrypt(holder, 0, [1.0])[2000:]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_parties": 0}, r"num_parties must be in \[1, 16777216\]; got 0"),
        ({"num_parties": 2**24 + 1}, r"num_parties must be in \[1, 16777216\]; got 16777217"),
        ({"num_parties": 1, "limit": 0.0}, r"limit must be in \[1e-100, 1e100\]; got 0.0"),
        ({"num_parties": 1, "beyond": "wrap"}, r"beyond must be one of .*; got 'wrap'"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CkksPlan.from_dict(values)


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(MissingExtraError, match=r"tenseal is not .*scalerec\[privacy\]"):
        KeyHolder(PLAN)
