"""Chimera: the map.

Contexts, each a package with the same few files (service.py, operations, one module a noun):

    identity     organisations (tenants), people, sessions, second factors, invitations, API keys
    privacy      what is held about a person: export, erasure
    access       roles, grants, teams, why somebody may do something; signing keys
    federation   signing in at OpenID and OAuth providers, linked identities
    templates    the prompt library: templates and their immutable versions
    providers    model endpoints, prices, the vault of keys, allowed targets, the ledger
    campaigns    plans, runs, results; engine/ drives them; techniques/ and scorers/
    accounting   budgets that hold, usage by day, alerts, webhooks
    telemetry    events on their way to and from the column store
    audit        the tamper-evident log: capture, sealing, proofs, export, offline verifier
    operations   what operators need: kill switch, stuck shards, dead letters

Shared machinery: settings, server, gate (around every RPC) with watching (open streams) and status
(faults on the wire), call (who is calling), db (statements, transactions), pools (where transactions
come from), replica (where analytics read), idempotency (requests sent again), roundtrip (reads in one
message), rows (rows are messages), validation, paging, outbox and doorbell (work after commit),
keyring, limits, faults.

Arrows: service -> operations -> db; workers.tasks -> operations; a context calls another's operations,
never its service or its tables. Start reading at gate.py, then campaigns/launching.py, then
campaigns/engine/drive.py.

Glossary: *organisation* (not workspace, account, project) is the tenant. *Campaign* (not test, job) is
what people edit; a *run* is one execution of its frozen plan; a *cell* is one prompt x technique x
target x repetition; an *attempt* is one call for a cell; an *execution* is the recorded result of a
cell; a *target* is a model as a run uses it; a *technique* (not attack, converter) transforms prompts;
a *scorer* (not detector, judge) says whether the technique succeeded.
"""
