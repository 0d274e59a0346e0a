"""Conversations: cells of more than one call, of a target, an attacker and judges. See README.md."""
