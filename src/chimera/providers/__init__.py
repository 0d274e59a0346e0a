"""Providers: registry, vault, budgets and the calls that go out to models.

How they are, and what is sent to them:
    circuits.py     what calls said of each model, and whether anything may go out to it
    held_circuits.py  the same as people see and hold it
    probes.py       the worker asks providers whether they are there
    health.py       both as people read it, now and over time
    watching.py     and as it changes
    routes.py       several models as one target
    rate_limits.py  what a key may send in a minute; kept by campaigns/engine/pace.py
"""
