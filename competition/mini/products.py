"""The products of an invented beauty shop: families of one packaging, whose members differ in shade or label only."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[int, int, int]  # red, green, blue, 0-255

KINDS = "bottle pump spray dropper tube jar lipstick mascara polish compact palette carton".split()
LABEL_SHAPES = ("print", "band", "panel", "oval", "wrap")
PATTERNS = ("none", "stripes", "bars", "dots", "waves", "chevrons", "leaves", "petals", "checks", "rings")
ICONS = ("none", "leaf", "flower", "drop", "star", "circle", "moon", "diamond", "heart")
LAYOUTS = ("top", "middle", "bottom", "split")
FINISHES = ("matte", "glossy", "metal", "glass")

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
    red, green, blue = colorsys.hsv_to_rgb(
        hue % 1.0, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1))
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def shifted(base: Colour, hue: float, saturation: float, value: float) -> Colour:
    """Return `base` moved by the given steps of hue (turns), saturation and value."""
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in base))
    return colour(h + hue, s + saturation, v + value)


def word(generator: np.random.Generator, syllables: int) -> str:
    """Return an invented brand-like word of that many syllables, in capitals."""
    parts = [str(generator.choice(ONSETS)) + str(generator.choice(VOWELS)) for _ in range(syllables)]
    return ("".join(parts) + str(generator.choice(CODAS))).upper()


def random_colour(generator: np.random.Generator) -> Colour:
    """Return a packaging colour: white, pastel, strong, dark or skin-like, as shops have them."""
    mood = generator.choice(5, p=(0.2, 0.28, 0.26, 0.12, 0.14))
    hue = generator.random()
    if mood == 0:
        return colour(hue, generator.uniform(0, 0.06), generator.uniform(0.9, 1.0))
    if mood == 1:
        return colour(hue, generator.uniform(0.15, 0.4), generator.uniform(0.8, 0.97))
    if mood == 2:
        return colour(hue, generator.uniform(0.5, 0.9), generator.uniform(0.5, 0.9))
    if mood == 3:
        return colour(hue, generator.uniform(0, 0.5), generator.uniform(0.1, 0.25))
    return colour(generator.uniform(0.02, 0.1), generator.uniform(0.25, 0.6), generator.uniform(0.55, 0.92))


def cosmetic_shade(generator: np.random.Generator) -> Colour:
    """Return a make-up colour: reds, pinks, nudes and browns mostly."""
    hue = generator.normal(0.98, 0.05) if generator.random() < 0.75 else generator.random()
    return colour(hue, generator.uniform(0.3, 0.85), generator.uniform(0.4, 0.92))


def readable_on(ground: Colour, generator: np.random.Generator) -> Colour:
    """Return an ink colour easily seen on `ground`."""
    bright = 0.3 * ground[0] + 0.59 * ground[1] + 0.11 * ground[2] > 128
    hue, saturation = generator.random(), generator.uniform(0, 0.8)
    return (
        colour(hue, saturation, generator.uniform(0.05, 0.4))
        if bright
        else colour(hue, saturation * 0.4, 0.97)
    )


def draw_product(generator: np.random.Generator) -> Product:
    """Return the first member of a new family."""
    kind = str(generator.choice(KINDS))
    body = random_colour(generator)
    label_shape = str(generator.choice(LABEL_SHAPES, p=(0.3, 0.2, 0.2, 0.12, 0.18)))
    label = body if label_shape == "print" else random_colour(generator)
    cap_finish = str(generator.choice(("matte", "glossy", "metal"), p=(0.35, 0.35, 0.3)))
    metals = ((212, 175, 90), (200, 202, 206), (214, 160, 130))
    cap = metals[generator.integers(3)] if cap_finish == "metal" else random_colour(generator)
    finish = str(generator.choice(FINISHES, p=(0.35, 0.35, 0.1, 0.2)))
    first = (
        cosmetic_shade(generator)
        if kind in ("lipstick", "compact", "palette", "polish")
        else random_colour(generator)
    )
    shades = tuple(
        shifted(first, generator.normal(0, 0.04), generator.normal(0, 0.15), generator.normal(0, 0.2))
        for _ in range(12)
    )
    return Product(
        kind=kind,
        finish=finish,
        shape=tuple(float(x) for x in generator.random(8)),
        body=body,
        cap=cap,
        cap_finish=cap_finish,
        shades=(first, *shades[1:]),
        label=label,
        ink=readable_on(label, generator),
        accent=random_colour(generator),
        label_shape=label_shape,
        layout=str(generator.choice(LAYOUTS)),
        pattern=str(generator.choice(PATTERNS)),
        pattern_scale=float(generator.uniform(0.6, 1.6)),
        icon=str(generator.choice(ICONS)),
        words=(
            word(generator, int(generator.integers(2, 4))),
            str(generator.choice(CATEGORIES)),
            str(generator.choice(SCENTS)),
        ),
        number=int(generator.integers(1, 100)),
    )


def other_shade(product: Product, generator: np.random.Generator) -> Product:
    """Return the same packaging and label in another shade: contents, and body or accent where those carry the shade."""
    hue, saturation, value = generator.normal(0, 0.07), generator.normal(0, 0.13), generator.normal(0, 0.13)
    shades = tuple(
        shifted(shade, hue, saturation, value + float(generator.normal(0, 0.05))) for shade in product.shades
    )
    body = shifted(product.body, hue, abs(saturation) + 0.1, -abs(value))
    accent = shifted(product.accent, hue + 0.1, saturation, value)
    same_ground = product.label_shape == "print"
    return replace(
        product,
        shades=shades,
        body=body,
        accent=accent,
        label=body if same_ground else product.label,
        ink=readable_on(body, generator) if same_ground else product.ink,
        words=(*product.words[:2], str(generator.choice(SCENTS))),
        number=int(generator.integers(1, 100)),
    )


def other_label(product: Product, generator: np.random.Generator) -> Product:
    """Return the same packaging and colours with another label: category, variant, icon and (often) pattern and layout."""
    order = generator.permutation(12) if product.kind == "palette" else range(12)
    return replace(
        product,
        shades=tuple(product.shades[k] for k in order),
        words=(product.words[0], str(generator.choice(CATEGORIES)), str(generator.choice(SCENTS))),
        number=int(generator.integers(1, 100)),
        icon=str(generator.choice(ICONS)),
        pattern=str(generator.choice(PATTERNS)) if generator.random() < 0.6 else product.pattern,
        pattern_scale=float(generator.uniform(0.6, 1.6)),
        layout=str(generator.choice(LAYOUTS)) if generator.random() < 0.4 else product.layout,
    )


def draw_family(generator: np.random.Generator, members: int) -> list[Product]:
    """Return `members` products of one packaging: a range of shades, a range of labels, or some of both."""
    first = draw_product(generator)
    changes = ((other_shade,), (other_label,), (other_shade, other_label))[
        generator.choice(3, p=(0.4, 0.35, 0.25))
    ]
    return [first] + [changes[generator.integers(len(changes))](first, generator) for _ in range(members - 1)]
