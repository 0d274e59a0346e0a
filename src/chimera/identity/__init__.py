"""Identity: who is calling, and in which organisation.

Nouns: organisation (the tenant), user, membership (a user's role in an organisation), session (one
sign-in, with its family of refresh tokens), API key, caller (what a credential proves).

What must stay true:
- An outsider learns nothing about accounts: every failed login does the same work, writes the same
  amount and gets the same answer.
- A refresh token has at most one successor. Using it again later ends its session.
- What a caller may do is never more than its role allows now; an API key's scopes only narrow it.
  A change reaches every process within two seconds.
- Whether somebody may do something is one pure function, `decisions.decide`; see access/README.md.
- Passwords are kept as Argon2id, refresh tokens and API keys as SHA-256; none of them can be read
  back, and none reaches a log, an error or the audit log.

Owns of schema `identity` the tables organisations, users, memberships, sessions, refresh_tokens,
api_keys and signing_keys. Before the organisation is known they are read through the functions identity.find_*.
"""
