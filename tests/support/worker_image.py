"""What the process that forks workers has in memory; see warm.py. Imported there alone."""

from __future__ import annotations

import gc

import arq.worker  # noqa: F401  # as all below: to have it
import uvloop  # noqa: F401

import workers.main  # noqa: F401

# A collection touches every object, and what a child touches it must copy.
gc.collect()
gc.freeze()
