"""`manifest.json`: what a bundle is, and the size and SHA-256 of every file that holds it.

Two digests stand in it. `digest` names the content (schema, spec, layout, adaptable names, lineage
without times, tensors one by one, tables), however the tensors are spread over files. `seal` covers
the manifest itself, so that a changed time or file entry is found too.
"""

from dataclasses import dataclass, field
from typing import Any

from scalerec.bundle.canonical import check_seal, is_digest, json_digest, load_table, sealed
from scalerec.bundle.files import TABLES, check_name
from scalerec.bundle.lineage import Step
from scalerec.config import Config, require
from scalerec.errors import BundleError, ConfigError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "BaseEntry",
    "FileEntry",
    "Manifest",
    "RowsEntry",
    "TensorEntry",
    "content_digest",
    "parse_manifest",
    "render_manifest",
]

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry(Config):
    """The size in bytes and the SHA-256 of one file."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        require(self.size >= 0, f"size must be at least 0; got {self.size}")
        require(is_digest(self.sha256), f"sha256 must be 64 hex digits; got {self.sha256!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry(Config):
    """Which file holds a tensor, what it is, and the SHA-256 of its bytes."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    def __post_init__(self) -> None:
        require(min(self.shape, default=0) >= 0, f"shape must not be negative; got {self.shape}")
        require(is_digest(self.sha256), f"sha256 must be 64 hex digits; got {self.sha256!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsEntry(Config):
    """In a delta: the stored tensors with the numbers and the values of a tensor's changed rows.

    `shape` is the shape of the whole tensor after the change; it may have more rows than the base.
    """

    rows: str
    values: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseEntry(Config):
    """The bundle that a delta stands on; `path`, relative to the delta, only says where it was."""

    digest: str
    path: str

    def __post_init__(self) -> None:
        require(is_digest(self.digest), f"digest must be 64 hex digits; got {self.digest!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(Config):
    """Everything in `manifest.json` but its seal.

    Args:
        format: Version of the format.
        digest: SHA-256 that names the content; see `content_digest`.
        schema: The schema of the data, as JSON.
        spec: The model spec, as JSON, with its `kind`.
        layout: The layout of a batch, as JSON.
        adaptable: Names and patterns of the parameters that may be adapted, sorted.
        lineage: The steps that made the bundle.
        base: What a delta stands on; none for a whole bundle.
        rows: In a delta, the tensors of which only rows changed.
        tensors: Stored tensor to its place, sorted by name.
        files: File name to its size and SHA-256.
    """

    format: int = FORMAT
    digest: str = ""
    schema: dict[str, object]
    spec: dict[str, object]
    layout: dict[str, object]
    adaptable: tuple[str, ...]
    lineage: tuple[Step, ...]
    base: BaseEntry | None = None
    rows: dict[str, RowsEntry] = field(default_factory=dict)
    tensors: dict[str, TensorEntry]
    files: dict[str, FileEntry]

    def entries_of(self, file: str) -> dict[str, TensorEntry]:
        """Give the stored tensors that one file holds."""
        return {name: entry for name, entry in self.tensors.items() if entry.file == file}


def content_digest(manifest: Manifest) -> str:
    """Give the SHA-256 that names a bundle's content.

    It covers schema, spec, layout, adaptable names, lineage without times, dtype, shape and bytes
    of each tensor, and the tables; in a delta also the base's digest. It does not cover how tensors
    are spread over files, times, where the base was, or attachments.
    """
    covered: dict[str, Any] = {
        "schema": manifest.schema,
        "spec": manifest.spec,
        "layout": manifest.layout,
        "adaptable": list(manifest.adaptable),
        "lineage": [step.lasting() for step in manifest.lineage],
        "tensors": [
            [name, entry.dtype, list(entry.shape), entry.sha256]
            for name, entry in sorted(manifest.tensors.items())
        ],
        "tables": [
            [name, manifest.files[name].sha256] for name in TABLES if name in manifest.files
        ],
    }
    if manifest.base is not None:
        covered["base"] = manifest.base.digest
        covered["rows"] = [[name, entry.to_dict()] for name, entry in sorted(manifest.rows.items())]
    return json_digest(covered)


def render_manifest(manifest: Manifest) -> bytes:
    """Give the bytes of `manifest.json`, with the seal as the last entry."""
    return sealed(manifest.to_dict())


def parse_manifest(text: bytes, place: str) -> Manifest:
    """Turn the bytes of a `manifest.json` into a manifest that agrees with itself.

    Args:
        text: The bytes of the file.
        place: The path of the file; it heads every message.

    Raises:
        BundleError: If it was cut short or changed, is of a later format, or names unsafe files.
    """
    table = load_table(text, place)
    found = table.get("format")
    if isinstance(found, int) and found > FORMAT:
        reads = f"this version reads up to {FORMAT}"
        raise BundleError(f"{place}: format {found}, {reads}: upgrade scalerec")
    plain = check_seal(table, text, place)
    try:
        manifest = Manifest.from_dict(plain)
    except (ConfigError, RecursionError) as error:
        raise BundleError(f"{place}: malformed: {error}") from error
    _check_agreement(manifest, place)
    return manifest


def _check_agreement(manifest: Manifest, place: str) -> None:
    """Refuse unsafe file names, tensors in files that are not listed, and a wrong digest."""
    for name in manifest.files:
        check_name(name, place)
    for name, entry in manifest.tensors.items():
        if entry.file not in manifest.files or entry.file in TABLES:
            raise BundleError(
                f"{place}: tensor {name!r} is said to be in {entry.file!r}, which is not among the "
                "weights files it lists"
            )
    for name, changed in manifest.rows.items():
        for key in (changed.rows, changed.values):
            if key not in manifest.tensors:
                raise BundleError(
                    f"{place}: rows of {name!r} need tensor {key!r}, not in the index"
                )
    if manifest.rows and manifest.base is None:
        raise BundleError(f"{place}: has changed rows but names no base")
    digest = content_digest(manifest)
    if manifest.digest != digest:
        raise BundleError(f"{place}: its digest is {manifest.digest}, its content gives {digest}")
