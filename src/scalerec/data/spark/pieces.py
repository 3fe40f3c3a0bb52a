"""A source cut into pieces that tasks read side by side; each is a source of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from scalerec.data.problems import Problems
from scalerec.data.sources import (
    ArrowSource,
    Chunk,
    CodedSource,
    ConcatSource,
    CsvSource,
    MappedSource,
    ParquetSource,
    Source,
    SplitSource,
    TableSource,
)
from scalerec.data.spark.session import Cluster

__all__ = ["Piece", "cut_source"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a source, its rows numbered as in the whole.

    Args:
        source: Reads the part.
        name: What messages call the whole.
        before: Rows of the whole before the part, as far as they are known at once.
        file: Number of the file among those of the whole; what rows earlier files have is only
            known when they were read.
    """

    source: Source
    name: str
    before: int = 0
    file: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return self.source.columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the part."""
        return self._shifted(self.source.chunks(columns, self._told(problems)))

    def coded_chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """As `chunks`, but text with few different values may stay coded."""
        if not isinstance(self.source, CodedSource):
            return self.chunks(columns, problems)
        return self._shifted(self.source.coded_chunks(columns, self._told(problems)))

    def _told(self, problems: Problems) -> Problems:
        return _Shifted(problems, self.before) if self.before else problems

    def _shifted(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            yield Chunk(chunk.table, chunk.rows + self.before)


class _Shifted(Problems):
    """Tells of rows of a part by their numbers in the whole."""

    def __init__(self, problems: Problems, before: int) -> None:
        super().__init__("skip")
        self._problems, self._before = problems, before

    def report(self, file: str, row: int, column: str, value: object, allowed: str) -> None:
        self._problems.report(file, row + self._before, column, value, allowed)


def cut_source(source: Source, num_bytes: int, cluster: Cluster) -> list[Piece]:
    """Cut a source into pieces of about so many bytes.

    Parquet is cut between row groups, Arrow between record batches, plain text between records;
    compressed text and text that is not UTF-8 stay whole.

    Args:
        source: What is cut.
        num_bytes: As they are in the file, of Parquet before compression.
        cluster: Looks for the ends of records in text.
    """
    if isinstance(source, ParquetSource | ArrowSource | TableSource):
        before, pieces = 0, []
        for part, rows in source.cut(num_bytes):
            pieces.append(Piece(part, source.name, before))
            before += rows
        return pieces
    if isinstance(source, CsvSource):
        return _cut_text(source, num_bytes, cluster)
    if isinstance(source, ConcatSource):
        return [
            Piece(piece, source.name, file=file)
            for file, part in enumerate(source.parts)
            for piece in cut_source(part, num_bytes, cluster)
        ]
    if isinstance(source, MappedSource | SplitSource):
        cut = cut_source(source.source, num_bytes, cluster)
        return [Piece(source.of(piece), source.name, file=piece.file) for piece in cut]
    return [Piece(source, source.name)]


def _cut_text(source: CsvSource, num_bytes: int, cluster: Cluster) -> list[Piece]:
    size = source.path.stat().st_size
    if size <= num_bytes or not source.can_cut:
        return [Piece(source, source.name)]
    # What is not cut needs no compiler.
    from scalerec.data.spark.cutting import Block, cuts_of, first_state, scan_block

    start, marks = first_state(source.path), source.marks[:2]
    starts = range(start, size, num_bytes)
    blocks = [Block(source.path, first, min(first + num_bytes, size), marks) for first in starts]
    cuts = cuts_of(blocks, cluster.run(scan_block, blocks), source)
    stops = [place for place, _ in cuts[1:]] + [size]
    return [
        Piece(source.part(first, stop), source.name, max(0, records))
        for (first, records), stop in zip(cuts, stops, strict=True)
    ]
