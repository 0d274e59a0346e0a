"""The embedded stack: PostgreSQL, Redis and ClickHouse from wheels, for one machine and tests.

The rest of the product never needs this package: it is given three URLs and cannot tell whether
they lead here or to production servers. Start at `stack.Stack`; README.md explains the rest.
Nothing is imported here, so that each child process loads only its own part.
"""
