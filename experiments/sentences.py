"""A conclusion's answer in one sentence, made from its entry in summary.json and nothing else."""

from collections import Counter
from collections.abc import Sequence

ORDER = ("contradicted", "supported", "no practical difference", "undecided")


def sentence(entry: dict) -> str:
    """Return the answer: the verdict, then what was found, clause by clause.

    Where the parts of a conclusion have different verdicts, the head counts them, and each part
    that is not supported says so.

    Args:
        entry: one of summary.json's verdicts: ``verdict``, ``subject`` and ``parts`` are read, of
            these the ones whose ``role`` is "claimed" or "beside".

    >>> part = {"verdict": "supported", "unit": "points", "estimate": 0.96, "low": 0.85, "n": 10}
    >>> part |= {"high": 1.07, "clause": "at the end by {}", "condition": "with it"}
    >>> part |= {"level": 0.95, "n_of": "seeds", "left_out": "", "role": "claimed"}
    >>> sentence({"verdict": "supported", "subject": "accuracy changes", "parts": [part]})[:58]
    'Supported: accuracy changes at the end by +0.96 points [+0'
    """
    claimed = [part for part in entry["parts"] if part["role"] == "claimed"]
    beside = [part for part in entry["parts"] if part["role"] == "beside"]
    counted = tally(entry)
    head = entry["verdict"].capitalize() + (f" as a whole ({counted})" if counted else "")
    told = f"{head}: {entry['subject']} {_clauses(claimed, labelled=bool(counted))}"
    doubts = _doubts([part for part in claimed if part["verdict"] == "undecided"])
    told += f"{'; undecided' if counted else ','} since {doubts}" if doubts else ""
    if beside:
        told += f"; not claimed, so not counted: {_clauses(beside, labelled=False)}"
    return f"{told}{_basis([*claimed, *beside])}."


def tally(entry: dict) -> str:
    """Return how many parts of a conclusion have which verdict; empty where all have the same.

    >>> verdicts = ["supported", "undecided", "supported"]
    >>> tally({"parts": [{"role": "claimed", "verdict": verdict} for verdict in verdicts]})
    '2 of 3 parts supported, 1 undecided'
    """
    found = Counter(part["verdict"] for part in entry["parts"] if part["role"] == "claimed")
    if len(found) < 2:
        return ""
    words = {"no practical difference": "with no practical difference"}
    (first, count), *others = ((words.get(a, a), found[a]) for a in ORDER if a in found)
    told = [f"{count} of {found.total()} parts {first}"]
    return ", ".join(told + [f"{number} {answer}" for answer, number in others])


def _clauses(parts: Sequence[dict], labelled: bool) -> str:
    """Return what was found, parts with the same clause together."""
    alike: dict[str, list[dict]] = {}
    for part in parts:
        alike.setdefault(part["clause"], []).append(part)
    return "; ".join(clause.format(_amounts(group, labelled)) for clause, group in alike.items())


def _amounts(parts: Sequence[dict], labelled: bool) -> str:
    told = [part for part in parts if part["estimate"] is not None]
    amounts = [
        f"{difference(part)} {part['condition']}".rstrip()
        + (f" ({part['verdict']})" if labelled and part["verdict"] != "supported" else "")
        for part in told
    ]
    untold = [part["condition"] for part in parts if part["estimate"] is None]
    if untold:
        amounts.append(f"an unknown amount {joined(untold)}".rstrip())
    return joined(amounts)


def _doubts(parts: Sequence[dict]) -> str:
    """Return why parts are undecided, each reason once, and what would decide them."""
    if not parts:
        return ""
    doubts = " and ".join(dict.fromkeys(part["reason"] for part in parts))
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
