"""Fifteen of MNIST's test labels that reviewers found wrong, and what they do to the verdicts.

Northcutt, Athalye and Mueller (2021), "Pervasive label errors in test sets destabilize machine
learning benchmarks", had people look at the labels that models disagree with. Fifteen of 10,000 are
0.15 points, as much as some of the differences between these models.
"""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

SHA256 = {
    947: "9e571df431674b22303a2080562c26af38879b3f86413cca1b46f813f909d1ad",
    1621: "a6dbd7572d6b5235f7a0be94ffb42665e276125de3e48db3a202c5b8627ec0c5",
    1901: "ac85fc88d75848d89423417b3ee25104183f5cac31c9194ba81591f517a167dd",
    2130: "3b659aa46e7e60f01f3be418fe3af6949ee91f777ea2239ba0f9ccdb2d97626f",
    2462: "b79f052864e49eef30d654ee5967b90002961c1e083ab21022eb1d7f39efd2a4",
    2597: "a8b3e479c863b2ec6e8cf6a2c54293daae81d0cd7793d781a54a9b52de26f542",
    2654: "2d23b44093568126d3af66400bce9f3a8874d4ea7d0d8a44fb3d45e659bd799c",
    3520: "78b0ae6da7b031aafd09386096592b516556fb52c97559ef894d15eaab1d8dfc",
    3558: "2ade8bec31ce7dba6308cfb803da8a802aebe8676fc70d0c9e95bd23991ca6da",
    5937: "ae0606c84402b2d7eff35a8eb39a022398f825a287f643c1bfffb3f016315982",
    6651: "e58ee418a2c482c9ba6fbe3cbbd942be11a390d450454887ed25ff4ab0b4fc6a",
    6783: "848efc6d40483e6f9a02b5b53dbe208229c8fc72ca3e76ff38f91bbbd4096058",
    8527: "b147b498facaa9a7924b2dc1dd35423c0de8369f7f8e56bdfa8aa44fa7bc52c6",
    9679: "6d535e9edb86d53435aad788dedaafd0e05ddf4a02747995c029699fb733e737",
    9729: "142caf3509596eb96413c3f9177b8a92c0fc966629fbd0ca47ce6c0ef7672140",
}
"""By index in MNIST's original test set, the SHA-256 of the image's 784 bytes.

By content, since tensorflow_datasets has the images in another order. Each is once in the test set,
and neither in the training set nor among the embedded digits.
"""


def find(images: np.ndarray) -> np.ndarray:
    """Tell which images are those whose labels were found wrong.

    Args:
        images: uint8 ``[N, 28, 28]``, in any order.

    Returns:
        bool ``[N]``.

    >>> find(np.zeros((2, 28, 28), np.uint8))
    array([False, False])
    """
    known = set(SHA256.values())
    found = [sha256(np.ascontiguousarray(image).tobytes()).hexdigest() in known for image in images]
    return np.array(found, bool)


def summarize(
    wrong: np.ndarray | None, entries: Sequence[dict], without: Sequence[dict]
) -> dict | None:
    """Return summary.json's ``wrong_labels``: which verdicts change without those images.

    Args:
        wrong: whether a test image is one of them, bool ``[images]``; None where nobody knows.
        entries: the conclusions with all images, as in summary.json.
        without: the same without those images.

    Returns:
        None where the test set holds none of them.
    """
    if wrong is None or not wrong.any():
        return None
    pairs = [
        (before["number"], part, other)
        for before, after in zip(entries, without, strict=True)
        for part, other in zip(before["parts"], after["parts"], strict=True)
    ]
    recomputed = [(n, part, other) for n, part, other in pairs if part["by_image"]]
    changes = [
        (str(before["number"]), before["verdict"], after["verdict"])
        for before, after in zip(entries, without, strict=True)
    ]
    changes += [(f"{n} ({p['name']})", p["verdict"], other["verdict"]) for n, p, other in pairs]
    changed = {name: (old, new) for name, old, new in changes if old != new}
    moves = [abs(other["estimate"] - part["estimate"]) for _, part, other in recomputed]
    return {
        "found": int(wrong.sum()),
        "images": len(wrong),
        "changed": list(changed),
        "recomputed": len(recomputed),
        "largest_move": max(moves, default=None),
        "text": _text(int(wrong.sum()), len(wrong), changed, moves),
    }


def _text(
    found: int, images: int, changed: dict[str, tuple[str, str]], moves: Sequence[float]
) -> str:
    """Return the finding in words."""
    held = f"The test set holds {found} of the {len(SHA256)} among its {images:,} images."
    if not moves:
        return f"{held} No verdict rests on single images, so none was made again without them."
    one = len(moves) == 1
    again = (
        f"{len(moves)} comparison{'' if one else 's'} {'rests' if one else 'rest'} on the test"
        f" images and {'was' if one else 'were'} made again without them: {'its' if one else 'no'}"
        f" estimate moves by {'' if one else 'more than '}{max(moves):.3f} points."
    )
    told = [f"{name}: {new} instead of {old}" for name, (old, new) in changed.items()]
    answer = f"Conclusion {'; '.join(told)}." if told else "All verdicts stay as they are."
    return f"{held} {again} {answer}"
