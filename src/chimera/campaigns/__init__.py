"""Campaigns: what to try against which models, and what came of it.

Nouns: a *campaign* holds a plan that can be edited while it is a draft. Launching freezes the plan
into a *run*. A run has numbered *cells* (prompt x technique x target x repetition), by arithmetic,
never as rows; a *shard* is a range of cells that one worker leases at a time; an *attempt* is one
call for a cell; an *execution* is the recorded result of a cell; a *flush* is the batch of results
that one transaction recorded.

    draft -> running <-> paused
               |-> completed | failed | cancelled

What must stay true:
* One execution a cell: the primary key (run_id, cell_no) decides, whoever else answers later.
* Every call that may cost money is a committed attempt before it goes out.
* Counters, ledger and the run's money move in the transaction that records the result.
* Cells that errored are in no success rate.

Tables owned: schema campaigns. Start reading at plan.py, then engine/drive.py.
"""
