"""A conclusion's answer in one sentence, made from its entry in summary.json and nothing else."""

from collections.abc import Sequence

ORDER = ("contradicted", "supported", "no practical difference", "undecided")


def sentence(entry: dict) -> str:
    """Return the answer: the verdict, then what was found, grouped by what it says to the claim.

    Args:
        entry: one of summary.json's verdicts: ``verdict``, ``subject`` and those ``parts`` that
            count are read.

    >>> part = {"verdict": "supported", "unit": "points", "estimate": 0.96, "low": 0.85, "n": 10}
    >>> part |= {"high": 1.07, "where": "at the end", "level": 0.95, "n_of": "seeds"}
    >>> part |= {"left_out": "", "counts": True}
    >>> sentence({"verdict": "supported", "subject": "it changes by", "parts": [part]})
    'Supported: it changes by +0.96 points [+0.85, +1.07] at the end (95% intervals, 10 seeds).'
    """
    parts = [part for part in entry["parts"] if part["counts"]]
    answers = [a for a in ORDER if any(part["verdict"] == a for part in parts)]
    answers.sort(key=lambda answer: answer != entry["verdict"])  # its own first
    groups = [_group(answer, [p for p in parts if p["verdict"] == answer]) for answer in answers]
    head = entry["verdict"].capitalize() + (" in part" if len(answers) > 1 else "")
    told = f"{head}: {entry['subject']} {groups[0]}"
    for answer, group in zip(answers[1:], groups[1:], strict=True):
        told += f"; {answer}: {group}"
    return f"{told}{_basis(parts)}."


def _group(answer: str, parts: Sequence[dict]) -> str:
    told = [part for part in parts if part["estimate"] is not None]
    clauses = [f"{difference(part)} {part['where']}" for part in told]
    untold = [part["where"] for part in parts if part["estimate"] is None]
    if untold:
        clauses.append(f"an unknown amount {joined(untold)}")
    return joined(clauses) + (_doubts(parts) if answer == "undecided" else "")


def _doubts(parts: Sequence[dict]) -> str:
    """Return why parts are undecided, each reason once, and what would decide them."""
    doubts = f", since {' and '.join(dict.fromkeys(part['reason'] for part in parts))}"
    needed = [part["seeds_needed"] for part in parts]
    if None not in needed:
        doubts += f", which about {max(needed)} {parts[0]['n_of']} would decide"
    return doubts


def _basis(parts: Sequence[dict]) -> str:
    """Return what the numbers come from: intervals' level, seeds, and runs that do not count."""
    told = [part for part in parts if part["estimate"] is not None]
    if not told:
        return ""
    basis = []
    if any(part["low"] is not None for part in told):
        basis.append(f"{100 * told[0]['level']:g}% intervals")
    counts = sorted({part["n"] for part in told})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    n_of = told[0]["n_of"]
    basis.append(f"{number} {n_of.removesuffix('s') if counts == [1] else n_of}")
    left_out = dict.fromkeys(part["left_out"] for part in told if part["left_out"])
    basis += [f"left out, as a run diverged: {runs}" for runs in left_out]
    return f" ({', '.join(basis)})"


def difference(part: dict) -> str:
    """Return a part's estimate, if it has one, with its interval, in points or percent.

    >>> difference({"unit": "ratio", "estimate": 1.173, "low": 1.161, "high": 1.185})
    '+17.3% [+16.1, +18.5]'
    >>> difference({"unit": "points", "estimate": -0.001, "low": None, "high": None})
    '0.00 points'
    """
    ratio = part["unit"] == "ratio"
    words = signed(part["estimate"], part["unit"]) + ("%" if ratio else " points")
    if part["low"] is None:
        return words
    return f"{words} [{signed(part['low'], part['unit'])}, {signed(part['high'], part['unit'])}]"


def signed(value: float, unit: str) -> str:
    """Return a number with its sign: of a ratio the percent more, with one decimal; else two."""
    digits, value = (1, 100 * (value - 1)) if unit == "ratio" else (2, value)
    value = round(value, digits)
    return f"{value:+.{digits}f}" if value else f"{0:.{digits}f}"


def joined(items: Sequence[str]) -> str:
    """Return items as a list in words.

    >>> joined(["one", "two", "three"])
    'one, two and three'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
