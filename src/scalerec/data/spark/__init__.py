"""Preparation by Apache Spark: the same data set as one machine makes, by tasks of a cluster.

The events are cut into pieces, and each task does with its piece what `scalerec.data.prepare` does
with all: the same parsers, encoders and writers. What concerns all pieces is exchanged as Arrow
tables: keys and their counts, moments and samples of numbers, and where users have histories, each
user's events in the order of time.
"""

from scalerec.data.spark.session import Cluster, is_local, spark_session

__all__ = ["Cluster", "is_local", "spark_session"]
