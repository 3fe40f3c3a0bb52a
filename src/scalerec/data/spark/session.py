"""The Spark session that work runs in: one that is there, or one of our own."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from scalerec.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Cluster", "is_local", "spark_session"]

T = TypeVar("T")
Item = TypeVar("Item")
# Tasks for each slot, and where the slots are not known.
TASKS, MANY_TASKS = 4, 1000
# What a task sends: the number of the task that receives it, and anything that can be pickled.
Sent = Iterable[tuple[int, Any]]


def is_local(master: str) -> bool:
    """Whether a master URL means this machine alone."""
    return master == "local" or master.startswith("local[")


@contextmanager
def spark_session(master: str | None = None) -> "Iterator[SparkSession]":
    """The active session, else a new one that is stopped at the end.

    A new one takes its settings from `spark-submit` or `spark-defaults.conf`, if there are any.

    Args:
        master: The master's URL, as `spark://host:7077`; what Spark is configured with, else
            `local[*]`, if not given.

    Raises:
        ConfigError: If there is no Java, or the session is of another master.
        MissingExtraError: If Spark is not installed.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise MissingExtraError("pyspark", "spark") from None
    found = SparkSession.getActiveSession()
    if found is not None:
        own = found.sparkContext.master
        if master not in (None, own):
            raise ConfigError(f"--master {master}: a session of {own} is active in this process")
        yield found
        return
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise ConfigError("Spark needs Java 17 or later, and there is none: set JAVA_HOME")
    session = _new_session(SparkSession.builder.appName("scalerec"), master)
    try:
        yield session
    finally:
        session.stop()


def _new_session(builder: Any, master: str | None) -> "SparkSession":
    # Workers must be of this Python, not of whatever `python3` is on their path.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # Vocabularies come to the driver, however large.
    settings = {"spark.ui.showConsoleProgress": "false", "spark.driver.maxResultSize": "0"}
    try:
        if is_local(master or _configured()):
            settings |= {
                # The name of a machine need not resolve.
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.ui.enabled": "false",
                "spark.executorEnv.PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            }
        builder = builder.master(master) if master else builder
        session: SparkSession = builder.config(map=settings).getOrCreate()
    except Exception as error:
        text = str(error).strip().splitlines()[0]
        raise ConfigError(f"Spark did not start (master {master}): {text}") from None
    session.sparkContext.setLogLevel("ERROR")
    return session


def _configured() -> str:
    """The master that `spark-submit`, `spark-defaults.conf` or `MASTER` names, else `local[*]`."""
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()  # only then are Spark's own defaults known
    return str(SparkConf().get("spark.master", "local[*]"))


class Cluster:
    """Runs tasks and lets them exchange what they found.

    Args:
        session: Where.
        words: Head of the message when Spark gives up.
    """

    def __init__(self, session: "SparkSession", words: str) -> None:
        self._context = session.sparkContext
        self._words = words
        self._tag = f"scalerec-{uuid4().hex[:8]}"

    @property
    def num_slots(self) -> int:
        """How many tasks run at once, as far as Spark knows."""
        return int(self._context.defaultParallelism)

    def run(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        """Do something with each item; what each gives, in order."""
        return self._collect(self._spread(items).map(function)) if items else []

    def exchange(
        self,
        send: Callable[[Item], Sent],
        items: Sequence[Item],
        receive: Callable[[int, Iterator[Any]], T],
        num_receivers: int,
    ) -> list[T]:
        """Tasks send to tasks that receive; what each of those gives, in order.

        Args:
            send: Gives, for an item, the receivers' numbers and what is sent to them.
            items: What is sent from.
            receive: Takes its number and what was sent to it, in any order.
            num_receivers: Receivers have the numbers below it.
        """
        if not items:
            return []
        sent = self._spread(items).flatMap(send)
        return self._collect(self._received(sent, receive, num_receivers))

    def exchange_twice(
        self,
        send: Callable[[Item], Sent],
        items: Sequence[Item],
        relay: tuple[Callable[[int, Iterator[Any]], Sent], int],
        receive: tuple[Callable[[int, Iterator[Any]], T], int],
    ) -> list[T]:
        """As `exchange`, with tasks between that receive and send on."""
        sent = self._spread(items).flatMap(send)
        between = self._received(sent, relay[0], relay[1]).flatMap(_same)
        return self._collect(self._received(between, *receive))

    def _spread(self, items: Sequence[Any]) -> Any:
        # A task has its price; a few for each slot are enough to even out. A cluster may not have
        # counted its slots yet.
        least = 0 if is_local(str(self._context.master)) else MANY_TASKS
        most = max(least, TASKS * self.num_slots)
        return self._context.parallelize(items, min(len(items), most))

    def _received(self, sent: Any, receive: Callable[..., Any], count: int) -> Any:
        def take(number: int, pairs: Iterator[tuple[int, Any]]) -> list[Any]:
            return [receive(number, (value for _, value in pairs))]

        return sent.partitionBy(count, int).mapPartitionsWithIndex(take)

    def _collect(self, found: Any) -> list[Any]:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        self._context.addJobTag(self._tag)
        try:
            return list(found.collect())
        except (Py4JError, PySparkException) as error:
            raise DataError(f"{self._words}: {_cause(str(error))}") from None
        except BaseException:  # an interrupt: what tasks write to is about to be removed
            self._context.cancelJobsWithTag(self._tag)
            raise
        finally:
            self._context.removeJobTag(self._tag)


def _same(values: Sent) -> Sent:
    return values


def _cause(text: str) -> str:
    """The last line of the first Python trace in a Java one, or the first line."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if "Traceback (most recent" in line), None)
    if start is None:
        return lines[0] if lines else "no reason given"
    told = [line for line in lines[start + 1 :] if line and not line.startswith((" ", "\t"))]
    return told[0] if told else lines[start]
