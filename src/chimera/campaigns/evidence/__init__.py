"""Evidence: a run in one file that an outsider can check without the server.

A ZIP archive with these members:

    manifest.json   what this is: format, run, campaign
    plan.json       the frozen plan, byte for byte, with the versions of techniques and scorers; its
                    SHA-256 is in the event of the launch, or of the scoring that a run judges for
    flushes.jsonl   which results each transaction recorded, in order, and the root over them
    results.jsonl   the results: what the roots cover ("result"), and what they do not ("context")
    turns.jsonl     of a run with conversations (chimera-evidence/3): what was said, in order; the
                    hash over a cell's turns is covered with its result
    audit.jsonl     the audit events of campaign and run with proofs, and the signed checkpoint

So each result hangs on a hash that hangs on an event that hangs on a signature.
"""
