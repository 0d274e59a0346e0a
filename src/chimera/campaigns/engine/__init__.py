"""The engine: drives runs on workers.

    leasing.py   takes shards over, with a fence, and works out what is left to do in them
    opening.py   what a drive needs before its first cell: plan, keys, lanes
    drive.py     one run on one worker: holds leases, waits, ticks
    flights.py   its cells from ready to their outcome: which go out next, what comes back
    ways.py      which model of its route a cell tries next
    talks.py     the conversations among them: what is asked next, and what one that ends is
    ending.py    an answer becomes a turn, the end of a conversation the result of its cell
    seats.py     turns in the tick, and the money of attackers and judges
    calling.py   one call, from the wire to a scored answer or a typed error
    lanes.py     one model of a drive: how much may be in flight, when to wait, when to give up
    pace.py      requests and tokens a minute per credential, over the whole cluster
    tick.py      the one transaction that settles what came back and commits what goes out next
    settlement.py  the part of it that records what came back, exactly once
    telling.py   whom newly recorded results are told to: watches, telemetry, audit, a scoring
    waiting.py   runs that wait for a budget, and go on when there is room
    limits.py    what stops a run by itself: executions, tokens, time, errors, a narrow interval
    completion.py  the end of shards, and of the run with its last one

A drive holds leases on shards of its run. Each tick is one transaction: it extends the leases (no
lease, no new sends), settles the attempts that came back, records results, counters, ledger, the
telemetry batch and one audit event, and commits the next attempts as sent. Only then do those go
out. So after any crash it is known which calls may have cost money, nothing is recorded twice, and
what was recorded is never paid again.

About once a second the tick also reports how calls went, opens and closes circuits
(chimera.providers.circuits) and hears how they and the limits of the credentials stand. A target may
be a route: each of its models has a lane, and a cell moves from lane to lane. The attempt for one
model holds its own worst cost and, as a reserve, that of the models after it, so a chain that was
begun can always be paid for; what an attempt really cost is booked by itself.

A cell of a plan with a strategy or a judge is a conversation (campaigns/conversations): each of its
calls is an attempt as above, what it brought is recorded as a turn in the tick that settles it, and the
next question follows from the recorded turns alone. A takeover loads them and goes on.
"""
