"""Access: roles, grants and teams of an organisation, and the keys that sign access tokens.

Nouns: role (built-in or the organisation's own: a set of permissions), grant (a role for a user or a
team, with conditions), team (people inside an organisation; leads change it), signing key.

What must stay true:
- Nobody gives what they do not hold themselves, lastingly: not by a grant, not by widening a role
  that others have, not by taking somebody into a team.
- What is decided here takes effect in this process at once and in others within two seconds: the
  state of a session or key is read anew (identity.authentication), and `authz_epoch` of everyone
  concerned grows, so that tokens from before are refused.
- ExplainAccess asks the function that decides (identity.decisions.decide).

Owns identity.roles, grants, teams and team_members. Signing keys are identity.signing_keys'.
"""
