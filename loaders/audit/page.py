"""audit.html: the result of an audit as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loaders.audit.shortcuts import ALL_FAKES, HIGH, LOW, RULES, RuleResult, describe
from utils.report.pages import write_page

TEMPLATE = Path(__file__).with_name("audit.html")
WORDS = {"open": "undecided", "constant": "constant: 0.5 by definition"}  # for a state; others: its name
WIDTH = 120  # of a cell's drawing: AUC 0 to 1


def write_html(path: Path, result: Any, about: dict[str, Any]) -> None:
    """Write the page of an audit atomically. result: loaders.audit.audit.Audit."""
    groups = list(dict.fromkeys(rule.group for rule in result.rules))
    categories = sorted({name for part in result.counts.values() for name in part} - {"real"})
    write_page(
        path,
        TEMPLATE,
        about=about,
        audit=result,
        columns=["real", *categories],
        groups=["all fakes" if group == ALL_FAKES else group for group in groups],
        table=_table(result.rules, groups),
        width=WIDTH,
        band=(LOW, HIGH),
    )


def _table(rules: Sequence[RuleResult], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table: name and description of a rule, and one cell per group."""
    by_place = {(rule.rule, rule.group): rule for rule in rules}
    return [
        {"rule": name, "what": what, "cells": [_cell(by_place[name, group]) for group in groups]}
        for name, (what, _) in RULES.items()
        if (name, ALL_FAKES) in by_place
    ]


def _cell(rule: RuleResult) -> dict[str, Any]:
    """Content of a cell: state in words, the larger of AUC and 1 - AUC, interval, direction, drawing."""
    cell: dict[str, Any] = {"state": rule.state, "word": WORDS.get(rule.state, rule.state), "auc": ""}
    if rule.auc is None or rule.state == "constant":
        return cell
    cell["auc"] = f"{rule.auc if rule.direction == 'learned' else rule.strength:.3f}"
    cell["direction"] = rule.direction
    cell["interval"] = " to ".join(f"{bound:.2f}" for bound in rule.shown_interval) or "too few identities"
    cell["title"] = describe(rule)
    cell["point"] = rule.auc
    cell["low"], cell["high"] = (rule.auc, rule.auc) if rule.low is None else (rule.low, rule.high)
    return cell
