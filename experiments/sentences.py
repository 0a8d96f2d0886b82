"""A conclusion's answer in a sentence or two, made from its entry in summary.json and nothing else.

What a mechanism adds to an answer, and what a sweep says, are sentences of their own.
"""

from collections import Counter
from collections.abc import Callable, Sequence

ORDER = ("contradicted", "supported", "no practical difference", "undecided")


def sentence(entry: dict) -> str:
    """Return the answer and what is to be said beside it, of one of summary.json's verdicts."""
    return " ".join(filter(None, (answer(entry), beside(entry))))


def answer(entry: dict) -> str:
    """Return the answer as one sentence: the verdict, then what was found, clause by clause.

    Where the parts of a conclusion have different verdicts, the head counts them, and each part
    that is not supported says so. What is asked beside the claim always says its verdict.

    Args:
        entry: one of summary.json's verdicts: ``verdict``, ``subject`` and ``parts`` are read.

    >>> part = {"verdict": "supported", "unit": "points", "estimate": 0.96, "low": 0.85, "n": 10}
    >>> part |= {"high": 1.07, "clause": "at the end by {}", "condition": "with it"}
    >>> part |= {"level": 0.95, "n_of": "seeds", "left_out": "", "role": "claimed"}
    >>> entry = {"verdict": "supported", "subject": "accuracy changes", "parts": [part]}
    >>> answer(entry)[:58]
    'Supported: accuracy changes at the end by +0.96 points [+0'
    """
    claimed = [part for part in entry["parts"] if part["role"] == "claimed"]
    unclaimed = [part for part in entry["parts"] if part["role"] == "beside"]
    counted = tally(entry)
    whole = f" as a whole, since the worst part decides ({counted})" if counted else ""
    head = entry["verdict"].capitalize() + whole
    told = f"{head}: {entry['subject']} {_clauses(claimed, _label if counted else _no_label)}"
    told += "" if counted or entry["verdict"] != "undecided" else _doubts(claimed)
    if unclaimed:
        told += f"; not claimed, so not counted: {_clauses(unclaimed, _full_label)}"
    return f"{told}{_basis([*claimed, *unclaimed])}."


def beside(entry: dict) -> str:
    """Return in sentences what a mechanism adds, what a sweep says and what was not asked.

    Args:
        entry: one of summary.json's verdicts: ``note``, ``swept``, ``found``, ``unasked`` and
            ``parts`` are read. What is asked of a sweep says its verdict, or once that of all.
    """
    return " ".join(filter(None, (entry["note"], _swept(entry), entry["unasked"])))


def _swept(entry: dict) -> str:
    """Return what a sweep says, with its own basis, as a sentence; nothing where there is none."""
    further = [part for part in entry["parts"] if part["role"] == "further"]
    if not further:
        return ""
    alike = len(further) > 1 and len({part["verdict"] for part in further}) == 1
    verdict = [f"verdict of each: {further[0]['verdict']}{_needed(further)}"] if alike else []
    told = f"A sweep, which has no part in it: {entry['swept']}"
    told += f" {_clauses(further, _no_label if alike else _full_label)}"
    return f"{told}{_basis(further, verdict)}.{_found(entry['found'], further)}"


def _found(looked_for: str, further: Sequence[dict]) -> str:
    """Return as a sentence where a sweep found what was looked for, by its parts' verdicts."""
    if not looked_for:
        return ""
    found = [part["compared"][0] for part in further if part["verdict"] == "supported"]
    if not found:
        return f" No rate was found {looked_for}."
    return f" {looked_for.capitalize()}: {joined(found)}."


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


def _clauses(parts: Sequence[dict], label: Callable[[dict], str]) -> str:
    """Return what was found, parts with the same clause together."""
    alike: dict[str, list[dict]] = {}
    for part in parts:
        alike.setdefault(part["clause"], []).append(part)
    return "; ".join(clause.format(_amounts(group, label)) for clause, group in alike.items())


def _amounts(parts: Sequence[dict], label: Callable[[dict], str]) -> str:
    told = [part for part in parts if part["estimate"] is not None]
    amounts = [f"{difference(part)} {part['condition']}".rstrip() + label(part) for part in told]
    untold = [part["condition"] for part in parts if part["estimate"] is None]
    if untold:
        amounts.append(f"an unknown amount {joined(untold)}".rstrip())
    return joined(amounts)


def _no_label(part: dict) -> str:
    """Return nothing, where all parts' verdict is given once."""
    return ""


def _label(part: dict) -> str:
    """Return a part's verdict where it is not supported, and what would decide it."""
    return "" if part["verdict"] == "supported" else _full_label(part)


def _full_label(part: dict) -> str:
    """Return a part's verdict, and what would decide it."""
    return f" ({part['verdict']}{_needed([part])})"


def _needed(parts: Sequence[dict]) -> str:
    """Return what would decide all of these parts, where that is known."""
    needed = [part["seeds_needed"] for part in parts]
    if None in needed:
        return ""
    return f"; a new run of about {about(max(needed))} {parts[0]['n_of']} would decide it"


def about(number: int) -> str:
    """Return a number of seeds needed as sure as it is: rounded up to two digits.

    >>> [about(number) for number in (9, 34, 276, 901, 1_000)]
    ['9', '34', '280', '910', '1,000']
    """
    unit = 10 ** max(len(str(number)) - 2, 0)
    return f"{-(-number // unit) * unit:,}"


def _doubts(parts: Sequence[dict]) -> str:
    """Return why all parts are undecided, where the reason is the same, and what would decide."""
    reasons = {part["reason"] for part in parts}
    return (f", since {reasons.pop()}" if len(reasons) == 1 else "") + _needed(parts)


def _basis(parts: Sequence[dict], before: Sequence[str] = ()) -> str:
    """Return what the numbers come from: intervals' level, seeds, and runs that do not count."""
    told = [part for part in parts if part["estimate"] is not None]
    if not told:
        return ""
    basis = list(before)
    if any(part["low"] is not None for part in told):
        basis.append(f"{100 * told[0]['level']:g}% intervals")
    counts = sorted({part["n"] for part in told})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    n_of = told[0]["n_of"]
    basis.append(f"{number} {n_of.removesuffix('s') if counts == [1] else n_of}")
    if any(part["left_out"] for part in told):
        basis.append("without those of runs that diverged")
    return f" ({', '.join(basis)})"


def difference(part: dict) -> str:
    """Return a part's estimate, if it has one, with its interval, in points or percent.

    Where rounding would move an end of the interval onto zero, or onto the margin, all three
    numbers get more digits: the verdict rests on which side they are.

    >>> difference({"unit": "ratio", "estimate": 1.173, "low": 1.161, "high": 1.185})
    '+17.3% [+16.1, +18.5]'
    >>> difference({"unit": "points", "estimate": -0.001, "low": None, "high": None})
    '0.00 points'
    >>> difference({"unit": "points", "estimate": 0.12, "low": 0.004, "high": 0.236})
    '+0.120 points [+0.004, +0.236]'
    """
    ratio = part["unit"] == "ratio"
    values, digits = [part[name] for name in ("estimate", "low", "high")], 2
    if ratio:
        values, digits = [None if v is None else 100 * (v - 1) for v in values], 1
    margin = part.get("margin", 0.0) * (100 if ratio else 1)
    ends = [value for value in values[1:] if value is not None]
    marks = (-margin, 0.0, margin)
    while digits < 9 and any(_hides(end, mark, digits) for end in ends for mark in marks):
        digits += 1
    estimate, *others = ("" if v is None else _signed(v, digits) for v in values)
    words = estimate + ("%" if ratio else " points")
    return words if part["low"] is None else f"{words} [{', '.join(others)}]"


def _hides(value: float, mark: float, digits: int) -> bool:
    """Tell whether a number that is not a mark looks like it when rounded."""
    return value != mark and round(value, digits) == round(mark, digits)


def signed(value: float, unit: str) -> str:
    """Return a number with its sign: of a ratio the percent more, with one decimal; else two."""
    return _signed(100 * (value - 1), 1) if unit == "ratio" else _signed(value, 2)


def _signed(value: float, digits: int) -> str:
    value = round(value, digits)
    return f"{value:+.{digits}f}" if value else f"{0:.{digits}f}"


def joined(items: Sequence[str]) -> str:
    """Return items as a list in words.

    >>> joined(["one", "two", "three"])
    'one, two and three'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
