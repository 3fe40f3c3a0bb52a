"""Sources: tables read as a stream of chunks, so that memory does not grow with the file."""

from scalerec.data.sources.base import Chunk, CodedSource, Source
from scalerec.data.sources.columnar import ArrowSource, ParquetSource, TableSource
from scalerec.data.sources.csv import CsvSource
from scalerec.data.sources.derived import Derived, DerivedSource, with_nulls
from scalerec.data.sources.mapped import ConcatSource, MappedSource, SplitSource
from scalerec.data.sources.opening import open_source

__all__ = [
    "ArrowSource",
    "Chunk",
    "CodedSource",
    "ConcatSource",
    "CsvSource",
    "Derived",
    "DerivedSource",
    "MappedSource",
    "ParquetSource",
    "Source",
    "SplitSource",
    "TableSource",
    "open_source",
    "with_nulls",
]
