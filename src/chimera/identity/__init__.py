"""Identity: who is calling, and in which organisation.

Nouns: organisation (the tenant), user, membership (a user's role in an organisation), home
organisation (the one whose administrators manage the account), invitation, registration (somebody
who wants an account), session (one sign-in, with its family of refresh tokens), device (known: it
was signed in from before), second factor, challenge (a login half-way), one-time token (what a mail
carries), API key, caller (what a credential proves).

What must stay true:
- An outsider learns nothing about accounts: every failed login does the same work, writes the same
  amount and gets the same answer; what is asked for by address is answered by mail alone.
- A guess is counted before it is looked at. What strangers do locks out strangers, not the owner on
  a device of theirs or with a second factor.
- What is good once (refresh token, code, link, invitation's use) is used up by one conditional
  UPDATE in the transaction of its effect, so parallel holders change nothing.
- A refresh token has at most one successor. Using it again later ends its session.
- What a caller may do is never more than its role allows now; an API key's scopes only narrow it.
  A change reaches every process within two seconds. Nobody grants or manages more than they may.
- An organisation keeps an administrator who can work.
- Whether somebody may do something is one pure function, `decisions.decide`; see access/README.md.
- Passwords are kept as Argon2id, everything with 128 random bits and more as SHA-256, authenticator
  secrets sealed by the master key; none of them reaches a log, an error or the audit log.

Who uses whom, from the outside in: service, account_service, organisation_service (thin) -> logins,
registrations, returning, profile, enrolment, organisations, invitations, users, api_keys -> sessions,
second_factor, password_rules, powers, one_time, throttle. desk holds what the services of one process share.
letters writes mails and purging removes what is over, both in a worker; erasure runs in both.

Owns the tables of schema `identity`. Before the organisation is known they are read through the
functions identity.find_* and identity.session_state.

Adding a mail: a writer in letters.WRITERS, and `mail.ask(tx, kind, ...)` where it is wanted. Adding
a sensitive call: `step_up: true` in its access option, by which it also commits only while its session
or key still stands (chimera/standing.py).
"""
