"""Groups of persons: those whose faces were swapped with each other must stay in one part of a split."""

from __future__ import annotations

from collections.abc import Iterable


def joined(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Member -> name of its group, where each link joins the groups of two members.

    A group is named after its sorted members ("a+b"), one of more than three after its first ("a+7_more").
    """
    groups: dict[str, set[str]] = {}
    for one, other in links:
        smaller, larger = sorted((groups.get(one, {one}), groups.get(other, {other})), key=len)
        larger |= smaller
        groups |= dict.fromkeys(smaller, larger)
        groups[one] = groups[other] = larger
    names: dict[int, str] = {}
    for members in groups.values():
        if id(members) not in names:
            order = sorted(members)
            many = len(order) > 3
            names[id(members)] = f"{order[0]}+{len(order) - 1}_more" if many else "+".join(order)
    return {member: names[id(members)] for member, members in groups.items()}
