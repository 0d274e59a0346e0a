"""Federation: signing in at an OpenID Connect or OAuth 2 provider (we are the client).

Nouns: provider (Google, GitHub, or any with discovery; of the installation by settings, or of an
organisation), sign-in (from StartSignIn to FinishSignIn), linked identity (who somebody is at a
provider: issuer and subject).

What must stay true:
- An account is found by (issuer, subject) and never by an e-mail address. A provider of an
  organisation vouches inside that organisation only: whoever runs it could claim anything.
- A sign-in is used once, by who holds its handle; the state in the browser's URL is derived from the
  handle and opens nothing without it. Nonce and PKCE verifier are stored sealed under the handle.
- Whatever a provider says is checked: its issuer (discovery, RFC 9207, ID token), signature under
  its own keys by a list of algorithms, audience, times, nonce.
- Calls go out through the connector that refuses private addresses, over https, without redirects,
  with small answers, and never inside a transaction.
- Nobody unlinks the last way in.

Owns identity.sign_ins, sign_in_providers and linked_identities.
"""
