"""The handle of a bundle on disk: its manifest at once, its tensors and tables when asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from scalerec.bundle.attachments import attach, list_attachments, read_attachment
from scalerec.bundle.contents import Contents, RowChange
from scalerec.bundle.lineage import Step
from scalerec.bundle.manifest import MANIFEST, FileEntry, Manifest
from scalerec.bundle.tables import read_table
from scalerec.bundle.weights import map_tensors
from scalerec.errors import BundleError

__all__ = ["Bundle", "TensorInfo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """What a tensor is, known without reading it: torch's name of its dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]


class Bundle:
    """A recommender on disk; `read_bundle` and `write_bundle` give one.

    Args:
        path: The directory.
        manifest: What its `manifest.json` says; treat it as read-only.
        base: The bundle that a delta stands on.
    """

    def __init__(self, path: Path, manifest: Manifest, base: "Bundle | None" = None) -> None:
        self.path = path
        self.manifest = manifest
        self.base = base
        self._tables: dict[str, pa.Table] = {}
        rows = manifest.rows.values()
        self._parts = {entry.rows for entry in rows} | {entry.values for entry in rows}

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, digest={self.digest[:12]}...)"

    @property
    def digest(self) -> str:
        """The SHA-256 that names the content."""
        return self.manifest.digest

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of the data, as JSON."""
        return self.manifest.schema

    @property
    def spec(self) -> dict[str, Any]:
        """The model spec, as JSON."""
        return self.manifest.spec

    @property
    def layout(self) -> dict[str, Any]:
        """The layout of a batch, as JSON."""
        return self.manifest.layout

    @property
    def adaptable(self) -> tuple[str, ...]:
        """Names and patterns of the parameters that may be adapted."""
        return self.manifest.adaptable

    @property
    def lineage(self) -> tuple[Step, ...]:
        """The steps that made the bundle, the oldest first."""
        return self.manifest.lineage

    @property
    def files(self) -> dict[str, FileEntry]:
        """The bundle's own files with sizes and digests; neither the manifest nor attachments."""
        return dict(self.manifest.files)

    @property
    def num_bytes(self) -> int:
        """The size on disk in bytes with the manifest, without attachments and base."""
        own = sum(entry.size for entry in self.manifest.files.values())
        return own + (self.path / MANIFEST).stat().st_size

    @property
    def encoders(self) -> pa.Table | None:
        """Vocabularies and bucket edges, mapped into memory."""
        return self._table("encoders.arrow")

    @property
    def catalogue(self) -> pa.Table | None:
        """The item rows that serving needs, mapped into memory."""
        return self._table("catalogue.arrow")

    @property
    def users(self) -> pa.Table | None:
        """The user rows that serving needs, mapped into memory."""
        return self._table("users.arrow")

    def tensor_infos(self) -> dict[str, TensorInfo]:
        """Give every tensor's dtype and shape, sorted by name, without reading any."""
        infos = self.base.tensor_infos() if self.base else {}
        for name, entry in self.manifest.tensors.items():
            if name not in self._parts:
                infos[name] = TensorInfo(dtype=entry.dtype, shape=entry.shape)
        for name, changed in self.manifest.rows.items():
            dtype = self.manifest.tensors[changed.values].dtype
            infos[name] = TensorInfo(dtype=dtype, shape=changed.shape)
        return dict(sorted(infos.items()))

    def tensor(self, name: str) -> Tensor:
        """Give one tensor, mapped into memory; pages are read when touched.

        Every call maps anew: writing to the tensor changes neither the file nor any other tensor.

        Raises:
            BundleError: If there is none of that name.
        """
        if name in self.manifest.rows and self.base:
            return self._with_rows(name, self.base.tensor(name))
        entry = self.manifest.tensors.get(name)
        if entry is not None and name not in self._parts:
            return map_tensors(self.path / entry.file, [name])[name]
        if self.base:
            return self.base.tensor(name)
        raise BundleError(f"{self.path}: has no tensor {name!r}")

    def tensors(self) -> dict[str, Tensor]:
        """Give every tensor, sorted by name, as `tensor` does; each file is opened once."""
        found = self.base.tensors() if self.base else {}
        for file in self.manifest.files:
            names = [name for name in self.manifest.entries_of(file) if name not in self._parts]
            if names:
                found.update(map_tensors(self.path / file, names))
        for name in self.manifest.rows:
            found[name] = self._with_rows(name, found[name])
        return dict(sorted(found.items()))

    def contents(self) -> Contents:
        """Give all it holds, to be changed and written again; a delta comes out whole."""
        return Contents(
            schema=self.schema,
            spec=self.spec,
            layout=self.layout,
            adaptable=self.adaptable,
            lineage=self.lineage,
            tensors=self.tensors(),
            encoders=self.encoders,
            catalogue=self.catalogue,
            users=self.users,
        )

    def attach(
        self, name: str, value: Mapping[str, Any] | bytes, *, overwrite: bool = False
    ) -> Path:
        """Keep a file beside the bundle, which stays as it is.

        Args:
            name: The file's name; a table's ends in ``.json``.
            value: A JSON table, to which the bundle's digest is added, or bytes.
            overwrite: Replace an attachment of that name.

        Returns:
            Where it was written.

        Raises:
            BundleError: If the name is taken, or the operating system refuses.
            ConfigError: If the name is not allowed, or the value is not JSON.
        """
        return attach(self.path, self.digest, name, value, overwrite)

    def attachments(self) -> dict[str, FileEntry]:
        """Give the attachments: name to size and SHA-256, sorted by name.

        Raises:
            BundleError: If their index was changed or belongs to another bundle.
        """
        return list_attachments(self.path, self.digest)

    def attachment(self, name: str) -> bytes:
        """Give the bytes of an attachment, verified.

        Raises:
            BundleError: If there is none of that name, or it was changed.
        """
        return read_attachment(self.path, self.digest, name)

    def attachment_json(self, name: str) -> dict[str, Any]:
        """Give a JSON attachment, verified, with the bundle's digest under ``bundle``.

        Raises:
            BundleError: If there is none of that name, it was changed, or it is not a JSON table.
        """
        try:
            value = json.loads(self.attachment(name))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{self.path}: attachment {name!r} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BundleError(f"{self.path}: attachment {name!r} is not a JSON table")
        return value

    def _table(self, name: str) -> pa.Table | None:
        if name not in self.manifest.files:
            return self.base._table(name) if self.base else None
        if name not in self._tables:
            self._tables[name] = read_table(self.path / name)
        return self._tables[name]

    def _with_rows(self, name: str, tensor: Tensor) -> Tensor:
        """Put a delta's rows into the base's tensor, whose mapping is private to this call."""
        entry = self.manifest.rows[name]
        keys = [entry.rows, entry.values]
        parts = {
            key: map_tensors(self.path / self.manifest.tensors[key].file, [key])[key]
            for key in keys
        }
        change = RowChange(rows=parts[entry.rows], values=parts[entry.values])
        if change.shape_after(name, tensor.dtype, tuple(tensor.shape)) != entry.shape:
            raise BundleError(f"{self.path}: rows of {name!r} do not give {list(entry.shape)}")
        return change.applied(tensor, entry.shape)
