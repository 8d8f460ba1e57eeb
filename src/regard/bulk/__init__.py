"""Captions for millions of files: planned once, done in units, resumed after an interruption.

filesystem     where files lie: local disks, or any file system of pyarrow or fsspec
sources        a source to units (containers: files that hold files, tar and Parquet)
plan           the plan of a job, which all its runs follow, and the units that a run has to do
worker         units to items to rows
result_shards  the rows of a unit in one file
engines        the units of a run, in this process or on Ray
"""

from regard.bulk.engines import engine_for, run
from regard.bulk.plan import BulkRun, Job, open_run
from regard.bulk.worker import FinishedUnit, Worker

__all__ = ["BulkRun", "FinishedUnit", "Job", "Worker", "engine_for", "open_run", "run"]
