"""Numbers in 16 bits inside compiled kernels, and a hint to fetch memory early.

Numba knows neither bfloat16 nor, on a processor, float16. An array of bfloat16 is passed as uint16
and one of float16 as int16; `load` and `store` tell them apart by that and convert.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

__all__ = ["load", "mix", "prefetch", "prefetch_at", "store", "store_rounded"]

SINGLE, HALF = ir.FloatType(), ir.HalfType()
I16, I32 = ir.IntType(16), ir.IntType(32)


def _float_to_bits(_: Any, value: Any) -> Any:
    """The 32 bits of a float32."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], I32)

    return types.uint32(types.float32), generate


float_to_bits: Any = intrinsic(_float_to_bits)


def _bits_to_float(_: Any, value: Any) -> Any:
    """The float32 of these 32 bits."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(args[0], SINGLE)

    return types.float32(types.uint32), generate


bits_to_float: Any = intrinsic(_bits_to_float)


def _half_to_float(_: Any, value: Any) -> Any:
    """The float32 of the 16 bits of a float16."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], HALF), SINGLE)

    return types.float32(types.int16), generate


half_to_float: Any = intrinsic(_half_to_float)


def _float_to_half(_: Any, value: Any) -> Any:
    """The 16 bits of the float16 nearest to a float32."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], HALF), I16)

    return types.int16(types.float32), generate


float_to_half: Any = intrinsic(_float_to_half)


def _prefetch_address(_: Any, address: Any) -> Any:
    """Ask for the cache line at an address, to be written."""

    def generate(_: Any, builder: Any, __: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        hint = [ir.Constant(I32, value) for value in (0, 3, 1)]
        builder.call(fetch, [builder.inttoptr(args[0], byte), *hint])
        return args[0]

    return types.uintp(types.uintp), generate


prefetch_address: Any = intrinsic(_prefetch_address)


@njit(inline="always")
def prefetch(matrix: Any, row: Any) -> None:
    """Ask for the cache lines that hold a row."""
    width = matrix.shape[1] * matrix.itemsize
    address = matrix.ctypes.data + row * width
    for part in range(0, width, 64):
        prefetch_address(types.uintp(address + part))
    # A row that does not begin with a line ends in one more.
    prefetch_address(types.uintp(address + width - matrix.itemsize))


@njit(inline="always")
def prefetch_at(matrix: Any, row: Any, column: Any) -> None:
    """Ask for the cache line that holds a place of a matrix."""
    place = (row * matrix.shape[1] + column) * matrix.itemsize
    prefetch_address(types.uintp(matrix.ctypes.data + place))


def load(array: Any, i: Any, j: Any) -> Any:
    """Read ``array[i, j]`` as float32."""
    raise NotImplementedError  # compiled code only


@overload(load, inline="always")
def _load(array: Any, i: Any, j: Any) -> Any:
    if array.dtype == types.uint16:
        return _load_bfloat16
    if array.dtype == types.int16:
        return _load_float16
    return _load_float32


def _load_bfloat16(array: Any, i: Any, j: Any) -> Any:
    return bits_to_float(types.uint32(types.uint32(array[i, j]) << types.uint32(16)))


def _load_float16(array: Any, i: Any, j: Any) -> Any:
    return half_to_float(array[i, j])


def _load_float32(array: Any, i: Any, j: Any) -> Any:
    return array[i, j]


def store(array: Any, i: Any, j: Any, value: Any) -> None:
    """Write a float32 to ``array[i, j]``, rounded to the nearest."""
    raise NotImplementedError  # compiled code only


@overload(store, inline="always")
def _store(array: Any, i: Any, j: Any, value: Any) -> Any:
    if array.dtype == types.uint16:
        return _store_bfloat16
    if array.dtype == types.int16:
        return _store_float16
    return _store_float32


def _store_bfloat16(array: Any, i: Any, j: Any, value: Any) -> None:
    bits: Any = float_to_bits(value)
    # To the nearest, ties to even.
    odd = (bits >> types.uint32(16)) & types.uint32(1)
    bits = types.uint32(bits + types.uint32(0x7FFF) + odd)
    array[i, j] = types.uint16(bits >> types.uint32(16))


def _store_float16(array: Any, i: Any, j: Any, value: Any) -> None:
    array[i, j] = float_to_half(value)


def _store_float32(array: Any, i: Any, j: Any, value: Any) -> None:
    array[i, j] = value


@njit(inline="always")
def mix(value: Any) -> Any:
    """Well-spread bits of a number, uint64 (the finaliser of SplitMix64)."""
    bits = types.uint64(value)
    bits = (bits ^ (bits >> types.uint64(30))) * types.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> types.uint64(27))) * types.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> types.uint64(31))


def store_rounded(array: Any, i: Any, j: Any, value: Any, noise: Any) -> None:
    """Write a float32 to ``array[i, j]``; float16 is rounded up or down by chance.

    The chance of either neighbour is how near it is, so the mean of many writes is the value, and
    moves much smaller than the distance of two float16 are not lost.

    Args:
        array: float32, or float16 as int16.
        i: Row.
        j: Column.
        value: What to write.
        noise: 32 random bits, uint32.
    """
    raise NotImplementedError  # compiled code only


@overload(store_rounded, inline="always")
def _store_rounded(array: Any, i: Any, j: Any, value: Any, noise: Any) -> Any:
    if array.dtype == types.int16:
        return _store_by_chance
    return _store_whole


def _store_whole(array: Any, i: Any, j: Any, value: Any, noise: Any) -> None:
    array[i, j] = value


# Half of the distance of float16 below 2^-14 is 2^-25; 13 bits of a float32 are cut above it.
CUT = 0x1FFF
TINY = 2.0**-14
LARGEST = 65504.0


def _store_by_chance(array: Any, i: Any, j: Any, value: Any, noise: Any) -> None:
    size = abs(value)
    if size < TINY:
        # The distance is 2^-24 there: cut a whole number of them.
        share = types.float32(noise >> types.uint32(8)) * types.float32(2.0**-24)
        steps = types.int16(size * types.float32(2.0**24) + share)
        array[i, j] = steps if value >= 0 else types.int16(steps | types.int16(-32768))
        return
    bits = types.uint32(float_to_bits(value) + (noise & types.uint32(CUT)))
    bits = types.uint32(bits & types.uint32(0xFFFFFFFF ^ CUT))
    rounded = bits_to_float(bits)
    if abs(rounded) > types.float32(LARGEST):
        rounded = types.float32(LARGEST) if rounded > 0 else types.float32(-LARGEST)
    array[i, j] = float_to_half(rounded)
