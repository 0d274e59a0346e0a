"""The audit log: every change and security event, sealed into one provable Merkle tree.

Nothing is imported here: the offline verifier (`python -m chimera.audit.verify`) must start with
the standard library and `cryptography` alone.
"""
