"""Rows as bytes: to the nearest, by chance, and at the ends of the range."""

import numpy as np
import pytest

from scalerec.models.kernels.quantise import dequantise, quantise


def coded(rows: np.ndarray, noise: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and what comes back."""
    codes, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    quantise(rows, np.uint64(noise), codes, scales)
    out = np.empty_like(rows)
    dequantise(codes, scales, out)
    return codes, out


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_never_wraps(sign: float) -> None:
    """Among two million draws some are a hair below 1."""
    rows = np.full((20_000, 100), sign, np.float32)
    for scale in (1.0, 0.3, 1.7):
        codes, out = coded(rows * np.float32(scale), noise=12345)
        assert (codes == 127 * sign).all()
        np.testing.assert_allclose(out, rows * scale, rtol=1e-6)


def test_rounding_by_chance_is_right_on_average() -> None:
    row = np.array([1.0, 0.5, -0.3, 0.001, 0.0], np.float32)
    rows = np.tile(row, (40_000, 1))
    _, out = coded(rows, noise=7)
    # A step is 1 / 127; its standard deviation is at most half of it, over the root of 40,000.
    np.testing.assert_allclose(out.mean(0), row, atol=5 * 0.5 / 127 / 200)
    assert np.abs(out - rows).max() <= 1 / 127 + 1e-6


def test_rounding_to_the_nearest() -> None:
    codes, _ = coded(np.array([[127.0, 1.4, 1.6, -1.4, -1.6, 0.0]], np.float32), noise=0)
    assert codes.tolist() == [[127, 1, 2, -1, -2, 0]]
