"""One thing that the audit found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

REDRAW = (
    "draw the split again with --split_source identity (persons and pairs stay together), or leave "
    "these clips out with --exclude_list"
)
DROP_DONORS = (
    "draw the split again with --donors drop, which leaves out fakes whose donor is in another part, or "
    "report the donor-disjoint subset apart"
)
REMOVE = "keep one copy: name the others in --exclude_list, then draw the split again"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`kind` is stable: "leak_..." or "shortcut_...". A note is reported but no reason to stop."""

    kind: str
    summary: str  # one sentence: what, how much of it
    remedy: str
    examples: list[str] = field(default_factory=list)
    is_note: bool = False
