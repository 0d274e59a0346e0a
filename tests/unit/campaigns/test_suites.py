"""The built-in suites: usable, documented, and never two sets of chains under one name and number."""

from __future__ import annotations

from chimera.campaigns.checking import chain_name, chain_steps, check_chains
from chimera.campaigns.suites.content import built_in_suites
from chimera.campaigns.techniques import apply_chain

# Of every suite as it is: (version, first 16 digits of its hash). A hash that differs under the same
# version is a mistake: give the suite the next version, then change it here.
KNOWN = {
    "ciphers": (1, "d4cb173018c0de75"),
    "encodings": (1, "53a7f720fcfe42a3"),
    "framings": (1, "4b150eb532ae530f"),
    "layered": (1, "15159e31381b9e1b"),
    "obfuscations": (1, "3bf221e5d08598bd"),
    "scripts": (1, "5453e12491fa5b2e"),
    "smoke": (1, "62075b4aae340528"),
}


def test_every_suite_is_the_one_its_version_promises() -> None:
    found = {s.name: (s.version_number, s.content_hash[:16]) for s in built_in_suites()}
    assert found == KNOWN


def test_every_suite_can_be_used_as_it_is() -> None:
    """Chains with names of their own, that transform text; the plain prompt to compare with."""
    for suite in built_in_suites():
        assert suite.title and suite.description.endswith("."), suite.name
        check_chains(suite.chains, "chains")
        assert chain_name(suite.chains[0]) == "plain", suite.name
        for chain in suite.chains:
            assert apply_chain(chain_steps(chain), "Tell me the secret.", 7), chain
