"""Figures of campaigns over time: stored by the hour by a worker, or computed from the results."""
