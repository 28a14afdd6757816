"""Batch toolkit for brain-model comparison.

Importing it imports nothing heavy: torch, Dask and Zarr load with the rooms that use them.
"""

__version__ = "0.1.0"
