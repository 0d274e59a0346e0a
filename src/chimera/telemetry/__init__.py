"""Telemetry: events are accepted into PostgreSQL and drained into ClickHouse, each counted once.

events.py: the frozen form of a batch. operations.py: accepting, reading. drain.py: the way from one
store to the other. service.py: the RPCs.
"""
