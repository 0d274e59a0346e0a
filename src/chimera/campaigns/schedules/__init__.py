"""Schedules: campaigns that are launched by themselves; see README.md."""
