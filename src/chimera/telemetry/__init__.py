"""Telemetry: events are taken into PostgreSQL, drained into ClickHouse, each counted once, and asked
about there.

In:  sender.py (whose events, a sane clock), rows.py and columnar.py (a batch judged), frozen.py (the
     form in which it waits and is sent), intake.py (receipts, the commit), backlog.py (when no more is
     taken), events.py and operations.py (what the product itself tells).
On:  drain.py (frozen groups, one token each), dead_letters.py, reconcile.py (compared with the store,
     sent anew), ledger.py (how far, and what was found), rollups.py (made anew from the events).
Out: scope.py (whose events a caller may read, enforced below any statement; limits), quotas.py (what an
     organisation may take), statements.py (which roll-up answers what), queries.py (series, rankings),
     listing.py, activity.py, summaries.py (in PostgreSQL, read from a standby where there is one),
     freshness.py, tail.py (live).

What must stay true:
* accepted = stored + dead-lettered + waiting, at every moment, per organisation.
* What was acknowledged is never dropped and never counted twice, in the events or in a roll-up.
* No query reaches the store but through `scope.Analytics`.

A producer's batch is known again for eight days; sent later than that it is a new one. Tables of the
store are in migrations/clickhouse: a new one that queries read must be named in scope.py.
"""
