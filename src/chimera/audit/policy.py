"""Which logs and witnesses are trusted, and how many of them it takes: a policy file.

One item a line: `log <key> [<url>]`, `witness <name> <key> [<url>]`, `group <name> <n|any|all>
<member>...`, `quorum <name|none>`; a `#` begins a comment line. The sealer asks the witnesses at
their URLs (`grpc://host:port`, `grpcs://host:port`, `file:///folder`); the verifier needs the quorum.

What must stay true: a name means one thing, is defined before it is used, and counts in one group.

Source: c2sp.org/tlog-policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chimera.audit.note import KeyKind, NoteError, VerifierKey

NONE = "none"


class PolicyError(ValueError):
    """A line of the file is not of a policy; names the line."""


@dataclass(frozen=True, slots=True)
class WitnessEntry:
    """A witness of the file. url: where to ask it; empty for a key to verify with only."""

    name: str
    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Met when `needed` of its members are: witnesses by name, or groups."""

    needed: int
    members: tuple[str, ...]


@dataclass(slots=True)
class Policy:
    """A whole file. quorum: the name of a witness or a group, or "none"."""

    logs: list[VerifierKey] = field(default_factory=list)
    witnesses: dict[str, WitnessEntry] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    quorum: str = NONE

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Raises PolicyError."""
        policy, quorums, used = cls(), 0, set[str]()
        for number, line in enumerate(text.split("\n"), 1):
            words = line.replace("\t", " ").split(" ")
            words = [word for word in words if word]
            if not words or words[0].startswith("#"):
                continue
            try:
                if words[0] == "quorum":
                    quorums += 1
                policy._take(words, used)
            except (PolicyError, NoteError) as error:
                raise PolicyError(f"line {number}: {error}") from None
        if quorums != 1:
            raise PolicyError("a policy has exactly one quorum line")
        return policy

    @classmethod
    def n_of(cls, keys: Iterable[VerifierKey], needed: int) -> Policy:
        """Asks for the cosignatures of `needed` of these witnesses. Raises PolicyError."""
        policy = cls()
        for number, key in enumerate(keys):
            if key.kind is KeyKind.COSIGNATURE:
                policy.witnesses[str(number)] = WitnessEntry(str(number), key)
        if needed < 0:
            raise PolicyError("a quorum is no less than 0")
        if needed > len(policy.witnesses):
            raise PolicyError(f"{needed} witnesses are asked for and {len(policy.witnesses)} given")
        if needed:
            policy.groups["all"] = Group(needed, tuple(policy.witnesses))
            policy.quorum = "all"
        return policy

    @property
    def keys(self) -> list[VerifierKey]:
        """Of logs and witnesses."""
        return [*self.logs, *(witness.key for witness in self.witnesses.values())]

    def is_met(self, cosigned_by: Iterable[VerifierKey]) -> bool:
        """Whether the quorum is among those who cosigned."""
        public_keys = {key.public_key for key in cosigned_by if key.kind is KeyKind.COSIGNATURE}
        return self.quorum == NONE or self._has(self.quorum, public_keys)

    def __str__(self) -> str:
        """The quorum in words."""
        return self._words(self.quorum)

    def _words(self, name: str) -> str:
        group = self.groups.get(name)
        if group is None:
            witness = self.witnesses.get(name)
            return witness.key.name if witness else name
        return f"{group.needed} of ({', '.join(self._words(member) for member in group.members)})"

    def _has(self, name: str, public_keys: set[bytes]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return self.witnesses[name].key.public_key in public_keys
        return sum(self._has(member, public_keys) for member in group.members) >= group.needed

    def _take(self, words: Sequence[str], used: set[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                key = VerifierKey.parse(vkey)
                if key.kind is not KeyKind.ED25519:
                    raise PolicyError("the key of a log is not an Ed25519 key")
                self._check_new_key(key, self.logs)
                self.logs.append(key)
            case ["witness", name, vkey, *url] if len(url) <= 1:
                key = VerifierKey.parse(vkey)
                if key.kind is not KeyKind.COSIGNATURE:
                    raise PolicyError("the key of a witness does not cosign")
                self._check_new_name(name)
                self._check_new_key(key, [w.key for w in self.witnesses.values()])
                self.witnesses[name] = WitnessEntry(name, key, "".join(url))
            case ["group", name, count, *members] if members:
                self._check_new_name(name)
                self.groups[name] = self._group(count, members, used)
            case ["quorum", name]:
                if name != NONE and name not in self.witnesses and name not in self.groups:
                    raise PolicyError(f"{name} is not defined before it is used")
                self.quorum = name
            case _:
                raise PolicyError("not a line of a policy")

    def _group(self, count: str, members: Sequence[str], used: set[str]) -> Group:
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise PolicyError(f"{member} is not defined before it is used")
            if member in used:
                raise PolicyError(f"{member} is a member twice")
            used.add(member)
        if count in ("any", "all"):
            return Group(1 if count == "any" else len(members), tuple(members))
        if not count.isdecimal() or not count.isascii() or not 1 <= int(count) <= len(members):
            raise PolicyError(f"{count} of {len(members)} members is no threshold")
        return Group(int(count), tuple(members))

    def _check_new_name(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise PolicyError(f"the name {name} is taken")

    @staticmethod
    def _check_new_key(key: VerifierKey, others: Iterable[VerifierKey]) -> None:
        if any(other.public_key == key.public_key for other in others):
            raise PolicyError("the key is listed twice")
