"""The products of an invented beauty shop: families of one packaging, whose members differ in shade or label only."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

Colour = tuple[int, int, int]  # red, green, blue, 0-255

KINDS = "bottle pump spray dropper tube jar lipstick mascara polish compact palette carton".split()
LABEL_SHAPES = ("print", "band", "panel", "oval", "wrap")
PATTERNS = ("none", "stripes", "bars", "dots", "waves", "chevrons", "leaves", "petals", "checks", "rings")
ICONS = ("none", "leaf", "flower", "drop", "star", "circle", "moon", "diamond", "heart")
LAYOUTS = ("top", "middle", "bottom", "split")
FINISHES = ("matte", "glossy", "metal", "glass")
METALS: tuple[Colour, ...] = ((212, 175, 90), (200, 202, 206), (214, 160, 130))
# ranges of saturation and value of white, pastel, strong, dark and skin-like colours
MOODS = (
    ((0, 0.06), (0.9, 1.0)),
    ((0.15, 0.4), (0.8, 0.97)),
    ((0.5, 0.9), (0.5, 0.9)),
    ((0, 0.5), (0.1, 0.25)),
    ((0.25, 0.6), (0.55, 0.92)),
)

ONSETS = "b br c cl d f fl g gl h j k l m n p r s st t v z".split()
VOWELS = ("a", "e", "i", "o", "u", "ae", "ia", "ea", "io")
CODAS = ("", "", "", "n", "r", "l", "s", "x", "ne", "lle", "que")
CATEGORIES = (
    "SERUM CREAM LOTION TONER MILK GEL OIL BALM MIST MASK WASH TINT SHINE GLOW VELVET SILK LIFT CALM "
    "PURE REPAIR"
).split()
SCENTS = (
    "ROSE ALOE HONEY CITRUS MINT COCOA LILAC PEACH MUSK FIG PEARL CORAL OLIVE AMBER PLUM CHERRY ALMOND "
    "SAGE VANILLA OCEAN LOTUS BERRY MANGO TEA"
).split()


@dataclass(frozen=True)
class Product:
    """Everything that is drawn of one product; families share all but the shade or the label.

    `shape` holds eight numbers in [0, 1] whose meaning depends on `kind` (see packaging.py); `shades` are the colours of
    the contents (one for most kinds, up to twelve pans for a palette); `words` are brand, category and variant.
    """

    kind: str
    finish: str
    shape: tuple[float, ...]
    body: Colour
    cap: Colour
    cap_finish: str
    shades: tuple[Colour, ...]
    label: Colour
    ink: Colour
    accent: Colour
    label_shape: str
    layout: str
    pattern: str
    pattern_scale: float
    icon: str
    words: tuple[str, str, str]
    number: int

    @property
    def variant(self) -> str:
        """What is printed in the smallest letters."""
        return f"{self.words[2]} {self.number:02d}"


def colour(hue: float, saturation: float, value: float) -> Colour:
    """Return the colour of `hue` (turns, any real), `saturation` and `value` (clipped to [0, 1])."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, *np.clip((saturation, value), 0, 1).tolist())
    return round(255 * red), round(255 * green), round(255 * blue)


def shifted(base: Colour, hue: float, saturation: float, value: float) -> Colour:
    """Return `base` moved by the given steps of hue (turns), saturation and value."""
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in base))
    return colour(h + hue, s + saturation, v + value)


def pick(rng: Generator, names: Sequence[str], p: Sequence[float] | None = None) -> str:
    """Return one of `names`, drawn with the probabilities `p` (None: equal ones)."""
    return str(rng.choice(names, p=p))


def word(rng: Generator, syllables: int) -> str:
    """Return an invented brand-like word of that many syllables, in capitals."""
    parts = [pick(rng, ONSETS) + pick(rng, VOWELS) for _ in range(syllables)]
    return ("".join(parts) + pick(rng, CODAS)).upper()


def random_colour(rng: Generator) -> Colour:
    """Return a packaging colour: white, pastel, strong, dark or skin-like, as shops have them."""
    mood, hue = int(rng.choice(5, p=(0.2, 0.28, 0.26, 0.12, 0.14))), rng.random()
    if mood == 4:
        hue = rng.uniform(0.02, 0.1)
    saturation, value = MOODS[mood]
    return colour(hue, rng.uniform(*saturation), rng.uniform(*value))


def cosmetic_shade(rng: Generator) -> Colour:
    """Return a make-up colour: reds, pinks, nudes and browns mostly."""
    hue = rng.normal(0.98, 0.05) if rng.random() < 0.75 else rng.random()
    return colour(hue, rng.uniform(0.3, 0.85), rng.uniform(0.4, 0.92))


def readable_on(ground: Colour, rng: Generator) -> Colour:
    """Return an ink colour easily seen on `ground`."""
    hue, saturation = rng.random(), rng.uniform(0, 0.8)
    if 0.3 * ground[0] + 0.59 * ground[1] + 0.11 * ground[2] > 128:
        return colour(hue, saturation, rng.uniform(0.05, 0.4))
    return colour(hue, saturation * 0.4, 0.97)


def draw_product(rng: Generator) -> Product:
    """Return the first member of a new family."""
    kind = pick(rng, KINDS)
    body = random_colour(rng)
    label_shape = pick(rng, LABEL_SHAPES, (0.3, 0.2, 0.2, 0.12, 0.18))
    label = body if label_shape == "print" else random_colour(rng)
    cap_finish = pick(rng, ("matte", "glossy", "metal"), (0.35, 0.35, 0.3))
    cap = METALS[rng.integers(3)] if cap_finish == "metal" else random_colour(rng)
    finish = pick(rng, FINISHES, (0.35, 0.35, 0.1, 0.2))
    made_up = kind in ("lipstick", "compact", "palette", "polish")
    first = cosmetic_shade(rng) if made_up else random_colour(rng)
    steps = rng.normal(0, (0.04, 0.15, 0.2), (12, 3))
    return Product(
        kind=kind,
        finish=finish,
        shape=tuple(rng.random(8).tolist()),
        body=body,
        cap=cap,
        cap_finish=cap_finish,
        shades=(first, *(shifted(first, *step) for step in steps[1:].tolist())),
        label=label,
        ink=readable_on(label, rng),
        accent=random_colour(rng),
        label_shape=label_shape,
        layout=pick(rng, LAYOUTS),
        pattern=pick(rng, PATTERNS),
        pattern_scale=rng.uniform(0.6, 1.6),
        icon=pick(rng, ICONS),
        words=(word(rng, int(rng.integers(2, 4))), pick(rng, CATEGORIES), pick(rng, SCENTS)),
        number=int(rng.integers(1, 100)),
    )


def other_shade(product: Product, rng: Generator) -> Product:
    """Return the same packaging and label in another shade: contents, and body or accent where those carry the shade."""
    hue, saturation, value = rng.normal(0, (0.07, 0.13, 0.13)).tolist()
    body = shifted(product.body, hue, abs(saturation) + 0.1, -abs(value))
    changed = replace(
        product,
        shades=tuple(
            shifted(shade, hue, saturation, value + rng.normal(0, 0.05)) for shade in product.shades
        ),
        body=body,
        accent=shifted(product.accent, hue + 0.1, saturation, value),
    )
    if product.label_shape == "print":
        changed = replace(changed, label=body, ink=readable_on(body, rng))
    words = (*product.words[:2], pick(rng, SCENTS))
    return replace(changed, words=words, number=int(rng.integers(1, 100)))


def other_label(product: Product, rng: Generator) -> Product:
    """Return the same packaging and colours with another label: category, variant, icon and (often) pattern and layout."""
    order = rng.permutation(12) if product.kind == "palette" else range(12)
    return replace(
        product,
        shades=tuple(product.shades[k] for k in order),
        words=(product.words[0], pick(rng, CATEGORIES), pick(rng, SCENTS)),
        number=int(rng.integers(1, 100)),
        icon=pick(rng, ICONS),
        pattern=pick(rng, PATTERNS) if rng.random() < 0.6 else product.pattern,
        pattern_scale=rng.uniform(0.6, 1.6),
        layout=pick(rng, LAYOUTS) if rng.random() < 0.4 else product.layout,
    )


def draw_family(rng: Generator, members: int) -> list[Product]:
    """Return `members` products of one packaging: a range of shades, a range of labels, or some of both."""
    first = draw_product(rng)
    changes = ((other_shade,), (other_label,), (other_shade, other_label))[rng.choice(3, p=(0.4, 0.35, 0.25))]
    return [first] + [changes[rng.integers(len(changes))](first, rng) for _ in range(members - 1)]
