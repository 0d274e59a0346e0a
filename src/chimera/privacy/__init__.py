"""Privacy: what the installation holds about a person, and its end.

Owns no table. Each context that holds something has a module `personal.py` with
`personal_data(tx, user_id)`; adding one is a line in export.py. Erasing is identity/erasure.py.
"""
