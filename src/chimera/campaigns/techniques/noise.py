"""Noise: the prompt as people mistype it. Some of it is lost, and readers hardly notice."""

import random
import re

from chimera.campaigns.parameters import Parameter, Params
from chimera.campaigns.techniques.obfuscations import rate_parameter
from chimera.campaigns.techniques.technique import Technique, Transform, pick

BEST_OF_N = "Hughes et al.: Best-of-N Jailbreaking, 2024, arXiv:2412.03556"
LONG_WORD = re.compile(r"[A-Za-z]{4,}")
VOWELS = frozenset("aeiouAEIOU")
# Neighbours on a keyboard of the QWERTY layout.
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    letter: (row[place - 1] if place else "") + row[place + 1 : place + 2]
    for row in ROWS
    for place, letter in enumerate(row)
}
NEIGHBOURS |= {letter.upper(): near.upper() for letter, near in NEIGHBOURS.items()}


def scramble(text: str, params: Params, rng: random.Random) -> str:
    """Shuffle the inner letters of words of four and more (Fisher-Yates)."""

    def shuffled(word: re.Match[str]) -> str:
        letters = list(word.group())
        if rng.random() >= params["rate"]:
            return word.group()
        for place in range(len(letters) - 2, 1, -1):
            other = 1 + pick(rng, place)
            letters[place], letters[other] = letters[other], letters[place]
        return "".join(letters)

    return LONG_WORD.sub(shuffled, text)


def perturb(text: str, params: Params, rng: random.Random) -> str:
    """Move printable ASCII characters one code point up or down."""
    rate, draw = params["rate"], rng.random
    out: list[str] = []
    for char in text:
        if "!" < char < "~" and draw() < rate:
            char = chr(ord(char) + (1 if draw() < 0.5 else -1))
        out.append(char)
    return "".join(out)


def mistype(text: str, params: Params, rng: random.Random) -> str:
    """Hit the key beside the right one."""
    rate, draw = params["rate"], rng.random
    out: list[str] = []
    for char in text:
        near = NEIGHBOURS.get(char)
        if near and draw() < rate:
            char = near[pick(rng, len(near))]
        out.append(char)
    return "".join(out)


def drop_vowels(text: str, params: Params, rng: random.Random) -> str:
    rate, draw = params["rate"], rng.random
    return "".join([char for char in text if char not in VOWELS or draw() >= rate])


def noise(
    name: str, title: str, description: str, transform: Transform, rate: Parameter
) -> Technique:
    return Technique(
        name=name,
        title=title,
        description=description,
        source=BEST_OF_N,
        transform=transform,
        parameters=(rate,),
        seeded=True,
    )


NOISE = (
    noise(
        "scrambled_words",
        "Scrambled words",
        "Shuffles the inner letters of English words and leaves the first and the last.",
        scramble,
        Parameter("rate", "number", 0.6, 0, 1, description="Share of longer words changed."),
    ),
    noise(
        "character_noise",
        "Character noise",
        "Moves printable ASCII characters to the code point before or after.",
        perturb,
        rate_parameter(0.06),
    ),
    noise(
        "typing_errors",
        "Typing errors",
        "Replaces letters by a neighbour on the keyboard, as fast typing does.",
        mistype,
        rate_parameter(0.1),
    ),
    noise(
        "dropped_vowels",
        "Dropped vowels",
        "Leaves out vowels, which readers fill in and word filters do not.",
        drop_vowels,
        rate_parameter(0.7),
    ),
)
