"""Partial updates: which fields a caller may change, and of which state of the thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chimera.faults import Conflict, Invalid, Violation


def checked_paths(paths: Iterable[str], allowed: Sequence[str]) -> list[str]:
    """The paths of an update mask. Raises Invalid(UPDATE_MASK_INVALID) when it names a field that
    is not `allowed`, or none at all."""
    named = list(paths)
    unknown = [path for path in named if path not in allowed]
    if unknown or not named:
        raise Invalid(
            "UPDATE_MASK_INVALID",
            f"Name the fields to change in update_mask; they can be: {', '.join(allowed)}.",
            violations=[
                Violation("update_mask", f"{path[:64]} cannot be updated", "UPDATE_MASK_INVALID")
                for path in unknown
            ],
        )
    return named


def check_etag(given: str, current: str) -> None:
    """Raises Conflict(ETAG_MISMATCH) unless `given` is empty or current."""
    if given and given != current:
        raise Conflict("ETAG_MISMATCH", "It was changed since that etag was read; read it again.")


def must_be_given(field: str) -> Invalid:
    """A field that was named and left empty."""
    violation = Violation(field, "must be given", "FIELD_INVALID")
    return Invalid("FIELD_INVALID", f"{field}: must be given", violations=[violation])
