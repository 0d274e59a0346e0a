"""Campaigns: what to try against which models, and what came of it.

Nouns: a *campaign* holds a plan that can be edited while it is a draft. Launching freezes the plan
into a *run*. A run has numbered *cells* (prompt x technique x target x repetition), by arithmetic,
never as rows; a *shard* is a range of cells that one worker leases at a time; an *attempt* is one
call for a cell; an *execution* is the recorded result of a cell; a *flush* is the batch of results
that one transaction recorded.

    draft <-> scheduled
      |--> running <-> paused
               |-> completed | failed | cancelled <-> scheduled (again and again)
                   any that is not live <-> archived

A run may send the cells of another again that have no scored result; the *line* of such runs is read
as one. *Suites* are named sets of technique chains, *schedules* launch campaigns by themselves.

What must stay true:
* One execution a cell: the primary key (run_id, cell_no) decides, whoever else answers later.
* Every call that may cost money is a committed attempt before it goes out.
* Counters, ledger and the run's money move in the transaction that records the result.
* Cells that errored are in no success rate.
* Values of secret variables are written and sent, and shown in no answer, result or log. In the rows a
  plan holds itself they are sealed (row_seals.py of the house), also in its frozen form and so in the run's evidence.
* A scheduled moment launches once, as who scheduled it, with the permissions of that moment.

Tables owned: schema campaigns. Start reading at plan.py, then engine/drive.py.
"""
