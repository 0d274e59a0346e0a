"""What people make of recorded results: comparison, other scorers, verdicts of people, export.

Nothing here sends anything, and nothing here changes what a run recorded: new verdicts stand beside
the recorded ones.
"""
