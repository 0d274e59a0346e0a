"""What people make of recorded results: comparison, other scorers, verdicts of people, export.

Nothing here sends anything to a target, and nothing here changes what a run recorded: new verdicts
stand beside the recorded ones. Models that judge stored answers are asked by the engine, in a run of
the scoring's own (judging_runs.py).
"""
