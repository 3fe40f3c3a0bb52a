"""Tensors in safetensors files: which dtypes, how they are spread, written, checked and mapped."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalerec.bundle.manifest import TensorEntry
from scalerec.errors import BundleError

__all__ = [
    "DTYPES",
    "SHARD_BYTES",
    "Stored",
    "check_shard",
    "check_tensor",
    "dtype_name",
    "hash_shard",
    "map_tensors",
    "plan_shards",
    "read_header",
    "write_shard",
]

SHARD_BYTES = 1 << 30
_CHUNK = 1 << 20
# Our name of a dtype (torch's own) to the code in a safetensors header.
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_NAMES = {code: name for name, code in DTYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A tensor in a file: what it is, and where its bytes end, counted from the first tensor's."""

    dtype: str
    shape: tuple[int, ...]
    end: int


def dtype_name(dtype: torch.dtype) -> str:
    """Give the name of a dtype as the manifest has it: ``float32``."""
    return str(dtype).removeprefix("torch.")


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse what cannot be stored: another layout or dtype, no data, a reserved name.

    Raises:
        BundleError: If the tensor cannot be stored.
    """
    if not isinstance(tensor, Tensor):
        raise BundleError(f"tensor {name!r} must be a torch tensor; got {type(tensor).__name__}")
    if name == "__metadata__" or not _is_text(name):
        raise BundleError(f"tensor name {name!r} is not allowed: safetensors cannot store it")
    if tensor.layout is not torch.strided:
        raise BundleError(f"tensor {name!r} must be dense (torch.strided); got {tensor.layout}")
    if tensor.is_meta:
        raise BundleError(f"tensor {name!r} has no data: it is on the meta device")
    if dtype_name(tensor.dtype) not in DTYPES:
        allowed = ", ".join(DTYPES)
        raise BundleError(
            f"tensor {name!r} has dtype {dtype_name(tensor.dtype)}; allowed: {allowed}"
        )


def _is_text(name: object) -> bool:
    try:
        return isinstance(name, str) and name.encode("utf-8") is not None
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def plan_shards(num_bytes: Mapping[str, int], shard_bytes: int) -> dict[str, list[str]]:
    """Spread tensors over files, in the order of their names, each file filled up to a limit.

    A tensor larger than the limit gets a file of its own.

    Args:
        num_bytes: Name of a tensor to its size.
        shard_bytes: The largest size of a file in bytes, headers aside.

    Returns:
        File name to the names of its tensors.
    """
    groups: list[list[str]] = []
    filled = 0
    for name, size in sorted(num_bytes.items()):
        if not groups or filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    count = len(groups)
    return {
        f"weights-{i:05d}-of-{count:05d}.safetensors": group for i, group in enumerate(groups, 1)
    }


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one weights file; tied tensors are written once for each name.

    Raises:
        BundleError: If the file cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(ready.items(), key=lambda item: item[1].data_ptr()):
        # safetensors refuses two names for one memory, so a second name gets its own copy.
        if tensor.numel() and tensor.data_ptr() < end:
            ready[name] = tensor.clone()
        elif tensor.numel():
            end = tensor.data_ptr() + tensor.nbytes
    try:
        save_file(ready, path)
    except SafetensorError as error:
        raise BundleError(f"{path.name}: cannot be written: {error}") from error
    # safetensors makes files private to their owner; a bundle has the rights of its directory.
    path.chmod(path.parent.stat().st_mode & 0o666)


def read_header(path: Path) -> dict[str, Stored]:
    """Read what a weights file says it holds, in the order of its bytes, without reading those.

    Raises:
        BundleError: If it is not a safetensors file without gaps.
    """
    with path.open("rb") as file:
        try:
            return _parse_header(file, path.stat().st_size)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(f"{path}: is not a safetensors file: {error!r}") from error


def _parse_header(file: BinaryIO, file_size: int) -> dict[str, Stored]:
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= file_size - 8:
        raise ValueError(f"header of {length} bytes in a file of {file_size}")
    plain = json.loads(file.read(length))
    plain.pop("__metadata__", None)
    stored: dict[str, Stored] = {}
    position = 0
    for name, entry in sorted(plain.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        dtype, shape = _NAMES[entry["dtype"]], tuple(entry["shape"])
        size = math.prod(shape) * getattr(torch, dtype).itemsize
        if begin != position or end - begin != size or min(shape, default=0) < 0:
            raise ValueError(f"tensor {name!r} of {size} bytes at {begin}..{end}")
        stored[name] = Stored(dtype=dtype, shape=shape, end=end)
        position = end
    if position != file_size - 8 - length:
        raise ValueError(f"{file_size} bytes, {position} of tensors")
    return stored


def hash_shard(path: Path) -> tuple[str, dict[str, str]]:
    """Hash a weights file and each tensor in it, in one pass and in bounded memory.

    Returns:
        The SHA-256 of the file, and tensor name to the SHA-256 of its bytes; no tensors if the
        header cannot be read, so that the caller may first compare the file.
    """
    try:
        stored = read_header(path)
    except BundleError:
        stored = {}
    whole = hashlib.sha256()
    digests: dict[str, str] = {}
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(0)
        if stored:
            _feed(file, start, whole)
        for name, tensor in stored.items():
            part = hashlib.sha256()
            _feed(file, start + tensor.end - file.tell(), whole, part)
            digests[name] = part.hexdigest()
        _feed(file, path.stat().st_size - file.tell(), whole)
    return whole.hexdigest(), digests


def _feed(file: BinaryIO, length: int, *hashes: "hashlib._Hash") -> None:
    while length > 0 and (chunk := file.read(min(length, _CHUNK))):
        for target in hashes:
            target.update(chunk)
        length -= len(chunk)


def check_shard(
    path: Path, stored: Mapping[str, Stored], entries: Mapping[str, TensorEntry]
) -> None:
    """Refuse a weights file whose tensors are not those that the manifest's index names.

    Raises:
        BundleError: If a tensor is missing, not named, or of another dtype or shape.
    """
    for name in sorted(stored.keys() - entries.keys()):
        raise BundleError(f"{path}: holds tensor {name!r}, which is missing from the index")
    for name in sorted(entries.keys() - stored.keys()):
        raise BundleError(f"{path}: lacks tensor {name!r}, which the index says it holds")
    for name, entry in entries.items():
        found, wanted = stored[name], (entry.dtype, entry.shape)
        if (found.dtype, found.shape) != wanted:
            raise BundleError(
                f"{path}: tensor {name!r} is {found.dtype} {list(found.shape)}, the index says "
                f"{entry.dtype} {list(entry.shape)}"
            )


def map_tensors(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Map tensors of a file into memory; pages are read when touched.

    The mapping is private and new on every call: writing to a tensor changes neither the file nor
    what another call gave.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: cannot be read: {error}") from error
