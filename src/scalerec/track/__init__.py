"""Where the numbers of a run go while it runs: a sink protocol and its members."""

from scalerec.track.jsonl import JsonlSink, read_jsonl
from scalerec.track.opening import SINKS, SinkEntry, open_sinks
from scalerec.track.services import TensorBoardSink, WandbSink
from scalerec.track.sinks import Fanout, MemorySink, Row, Sink

__all__ = [
    "SINKS",
    "Fanout",
    "JsonlSink",
    "MemorySink",
    "Row",
    "Sink",
    "SinkEntry",
    "TensorBoardSink",
    "WandbSink",
    "open_sinks",
    "read_jsonl",
]
