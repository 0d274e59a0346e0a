"""Suites: named sets of technique chains that plans refer to; see README.md."""
