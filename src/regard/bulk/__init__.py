"""Captions for millions of files: planned once, done in units, resumed where it stopped.

places.py    where files lie: local, or any file system of pyarrow or fsspec
sources.py   a source to units (parquet.py, tars.py: of files that hold files)
plan.py      the plan that all runs of a job hold to
items.py     a unit to its items
worker.py    units to shards (shards.py), by the stream that all captioning goes through
run.py       what is missing, done in this process or by on_ray.py
"""

from regard.bulk.local import Run, engine_for, open_run, run
from regard.bulk.plan import Job
from regard.bulk.worker import Done, Worker

__all__ = ["Done", "Job", "Run", "Worker", "engine_for", "open_run", "run"]
