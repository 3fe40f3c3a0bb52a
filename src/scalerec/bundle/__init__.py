"""The bundle: a directory that holds a recommender whole, verified whenever it is read."""

from scalerec.bundle.adaptable import adaptable_names, require_adaptable
from scalerec.bundle.bundle import Bundle, TensorInfo
from scalerec.bundle.contents import Changes, Contents, RowChange
from scalerec.bundle.delta import write_delta
from scalerec.bundle.lineage import Step
from scalerec.bundle.manifest import FORMAT, FileEntry
from scalerec.bundle.reading import read_bundle
from scalerec.bundle.writing import write_bundle

__all__ = [
    "FORMAT",
    "Bundle",
    "Changes",
    "Contents",
    "FileEntry",
    "RowChange",
    "Step",
    "TensorInfo",
    "adaptable_names",
    "read_bundle",
    "require_adaptable",
    "write_bundle",
    "write_delta",
]
