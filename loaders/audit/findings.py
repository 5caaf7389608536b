"""One thing that the audit found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

REDRAW = (
    "draw the split again with --split_source identity (persons and pairs stay together), or exclude "
    "these clips with --exclude_list"
)
DROP_DONORS = (
    "draw the split again with --donors drop, which leaves out fakes whose donor is in another split, or "
    "report results on the donor-disjoint subset separately"
)
REMOVE = "keep one copy: list the others in --exclude_list, then draw the split again"


@dataclass(frozen=True)
class Finding:
    """`kind` is a stable name: "leak_...", "shortcut_..." or "note_...". Notes do not fail the audit."""

    kind: str
    summary: str  # one sentence: what, and how much
    remedy: str
    examples: list[str] = field(default_factory=list)
    is_note: bool = False
