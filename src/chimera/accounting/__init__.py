"""Accounting: what may be spent, what was spent, and who is told.

    windows.py      what budgets hold and have settled, day by day and month by month: the engine's side
    budgets.py      budgets as people set them
    remaining.py    how they stand; the refusal of a launch
    alerts.py       thresholds, told of exactly once
    usage.py        the ledger by day: aggregated with a watermark, never counted twice
    reports.py      usage by any of its dimensions
    reconciling.py  the proof that ledger, usage, runs and windows tell one story
    retention.py    what is dropped, and when
    webhooks.py     endpoints of an organisation and their secrets
    signing.py      how a delivery proves where it comes from
    deliveries.py   events on their way to endpoints
    letters.py      the mail about an alert

What must stay true:
* settled + held of a window never exceeds its limits when something new is sent; a hold is settled
  against the window of the day it was sent on, whenever that is.
* Windows exist only where there is a budget, and follow from ledger and attempts: they can be counted
  again at any moment between two transactions, and are (reconciling.py).
* Who creates a budget holds the money rows of all runs it concerns until its window stands.
"""
