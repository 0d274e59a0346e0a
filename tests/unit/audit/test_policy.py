"""Policy files: who is trusted, and how many of them it takes."""

from __future__ import annotations

import pytest

from chimera.audit.note import KeyKind, SigningKey, VerifierKey
from chimera.audit.policy import Policy, PolicyError

LOG = SigningKey.generate("log.example").verifier
W = [SigningKey.generate(f"w{n}.example", KeyKind.COSIGNATURE).verifier for n in range(5)]
TWO_LEVELS = f"""\
# who we trust
log {LOG} https://log.example

witness X1\t{W[0]}
witness X2 {W[1]}  grpc://127.0.0.1:1
witness X3 {W[2]}
group Xs 2 X1 X2 X3
witness Y1 {W[3]}
witness Y2 {W[4]}
group Ys any Y1 Y2
group both all Xs Ys
quorum both
"""


@pytest.mark.parametrize(
    ("cosigned", "is_met"),
    [((0, 1, 3), True), ((0, 2, 4), True), ((0, 1, 2), False), ((0, 3, 4), False), ((), False)],
)
def test_two_levels_of_groups(cosigned: tuple[int, ...], is_met: bool) -> None:
    """Two of the Xs and any of the Ys."""
    policy = Policy.parse(TWO_LEVELS)
    assert policy.is_met([W[number] for number in cosigned]) is is_met
    assert policy.keys == [LOG, *W]
    assert policy.witnesses["X2"].url == "grpc://127.0.0.1:1"


def test_one_witness_cannot_count_twice() -> None:
    """Also under another name: what counts is its key."""
    twin = VerifierKey("twin.example", W[0].kind, W[0].public_key)
    assert not Policy.parse(TWO_LEVELS).is_met([W[0], twin, W[3]])


def test_none_needs_nobody() -> None:
    """A policy may trust a log alone."""
    assert Policy.parse(f"log {LOG}\nquorum none\n").is_met([])


def test_n_of_the_given_keys() -> None:
    """What `--quorum N` means; a log's key is no witness."""
    policy = Policy.n_of([LOG, *W[:3]], 2)
    assert policy.is_met(W[1:3]) and not policy.is_met([LOG, W[0]])
    assert Policy.n_of([LOG], 0).is_met([])
    for needed in (2, -1):
        with pytest.raises(PolicyError):
            Policy.n_of([LOG, W[0]], needed)


NO_POLICIES = [
    "", "quorum none\nquorum none\n", "quorum X\n", f"witness none {W[0]}\nquorum none\n",
    f"witness X {W[0]}\nwitness X {W[1]}\nquorum X\n",
    f"witness X {W[0]}\nwitness Y {W[0]}\nquorum X\n",
    f"log {LOG}\nlog {LOG}\nquorum none\n", f"log {W[0]}\nquorum none\n",
    f"witness X {LOG}\nquorum X\n", f"group G 1 X\nwitness X {W[0]}\nquorum G\n",
    f"witness X {W[0]}\ngroup G 2 X\nquorum G\n", f"witness X {W[0]}\ngroup G 0 X\nquorum G\n",
    f"witness X {W[0]}\ngroup G 1 X X\nquorum G\n", f"witness X {W[0]}\ngroup G any\nquorum G\n",
    f"witness X {W[0]}\ngroup G any X\ngroup H any X\nquorum H\n",
    f"witness X {W[0]} a b\nquorum X\n", "log nonsense\nquorum none\n", "trust me\nquorum none\n",
    f"witness X {W[0]}\ngroup G ١ X\nquorum G\n",
]  # fmt: skip


# The keys in the texts are new in every process; numbers are not.
@pytest.mark.parametrize("text", NO_POLICIES, ids=range(len(NO_POLICIES)))
def test_what_is_no_policy_is_refused(text: str) -> None:
    """Names before they are defined, twice, of the wrong kind; thresholds nobody can meet."""
    with pytest.raises(PolicyError):
        Policy.parse(text)
