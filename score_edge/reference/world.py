"""A procedural video-question world: small clips whose every fact is known.

Each clip is made from `(seed, index, steps)` alone. Things of a few shapes and colours share one picture: some move
for a moment, one may flash, one may drift by less than a pixel per step, and look-alikes never move at all. Camera
shake, flicker, a scrolling texture and sensor noise change many pixels and matter to no question; a regime adds leaves,
rain, a panning camera, ... that change more than what is asked about (`nuisance.py`).
"""

from dataclasses import dataclass, replace

import numpy as np

from score_edge.core import Float32, Frame, Mask, Uint8
from score_edge.reference.nuisance import Nuisance
from score_edge.reference.render import render

SIZE = 96  # pixels, both sides
CELL = 16  # pixels a visual token covers, both sides
FRAMES_PER_STEP = 2
FPS = 4.0  # frames per second, so two steps a second

TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan", "white")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
NUMBERS = ("none", "one", "two", "three")
QUESTION_TYPES = ("color", "shape", "direction", "flash", "order", "drift", "count", "still")

MARGIN = 11.0  # pixels a centre stays away from the border
GAP = 3.0  # pixels between the boxes that two things sweep


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a clip.

    Attributes:
        role: "mover", "flash", "drifter" or "still".
        path: (F, 2) float32, centre (x, y) in pixels per frame.
        visible: (F,) bool.
        acting: (T,) bool, steps in which it moves, flashes or drifts; for "still", every step.
    """

    shape: str
    color: str
    role: str
    direction: str
    radius: float
    path: Float32
    visible: Mask
    acting: Mask

    @property
    def name(self) -> str:
        """Colour and shape, unique within a clip."""
        return f"{self.color} {self.shape}"

    def cover(self) -> Float32:
        """(T, N) float32: the share of each token's cell that the thing's box covers, per step."""
        edges = np.arange(0, SIZE, CELL, dtype=np.float32)
        low, high = self.path - self.radius, self.path + self.radius  # (F, 2)
        overlap = np.minimum(high[..., None], edges + CELL) - np.maximum(low[..., None], edges)  # (F, 2, SIZE / CELL)
        overlap = np.clip(overlap, 0, None) * self.visible[:, None, None]
        area = overlap[:, 1, :, None] * overlap[:, 0, None, :] / CELL**2
        return np.asarray(area.reshape(-1, FRAMES_PER_STEP, edges.size**2).max(axis=1), np.float32)

    def evidence(self) -> Mask:
        """(T, N) bool: the tokens that show the thing while it acts."""
        return np.asarray((self.cover() > 0.08) & self.acting[:, None])


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a clip.

    Attributes:
        kind: one of QUESTION_TYPES.
        answer: one word.
        evidence: (T, N) bool, the visual tokens that carry the answer.
    """

    kind: str
    text: str
    answer: str
    evidence: Mask


@dataclass(frozen=True, slots=True)
class Clip:
    """A rendered clip and all that can be asked about it.

    Attributes:
        images: (F, SIZE, SIZE, 3) uint8 RGB, F = steps * FRAMES_PER_STEP.
        camera: (F, 2) float32, pixels (x, y) that the camera's panning shifts the picture by; paths of things have it
            in them.
    """

    images: Uint8
    things: tuple[Thing, ...]
    questions: tuple[Question, ...]
    camera: Float32

    def frames(self) -> list[Frame]:
        """The clip as a source would deliver it."""
        return [Frame(image, i / FPS, i) for i, image in enumerate(self.images)]


def make_clip(seed: int, index: int, steps: int, regime: str = "plain") -> Clip:
    """Clip number `index` of the endless series `seed`, `steps` encoder steps long.

    Seeds TRAIN_SEED, VALIDATION_SEED and TEST_SEED are the three disjoint splits. Under every regime, one of
    `nuisance.REGIMES`, the same things do the same and the same is asked.
    """
    rng = np.random.default_rng((seed, index, steps))
    nuisance = Nuisance.of(regime, seed, index, steps)
    camera = nuisance.camera(steps * FRAMES_PER_STEP)
    things = tuple(replace(thing, path=thing.path + camera) for thing in _place_things(rng, steps))
    images = render(rng, things, SIZE, camera, nuisance)
    return Clip(images, things, _questions(rng, things), camera)


def vocabulary() -> list[str]:
    """Every question the world can ask and every answer, as text to build a tokenizer from."""
    names = [f"the {color} {shape}" for color in COLORS for shape in SHAPES]
    return [
        *(f"what color is the {shape} that moved?" for shape in SHAPES),
        *(f"what shape is the {color} thing that moved?" for color in COLORS),
        *(f"which way did {name} move?" for name in names),
        "what color was the thing that appeared briefly?",
        "what shape was the thing that appeared briefly?",
        *(f"which came first, {name} or {name}?" for name in names),
        "what color is the thing that drifts slowly?",
        "how many things moved fast?",
        *(f"what shape is the {color} thing that never moved?" for color in COLORS),
        *SHAPES,
        *COLORS,
        *DIRECTIONS,
        *NUMBERS,
    ]


def _place_things(rng: np.random.Generator, steps: int) -> tuple[Thing, ...]:
    """Draw the cast of a clip so that no two things ever touch."""
    roles = ["mover"] * int(rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3]))
    roles += ["flash"] * int(rng.random() < 0.75) + ["drifter"] * int(rng.random() < 0.75)
    roles += ["still"] * int(rng.integers(2, 5))
    things: list[Thing] = []
    boxes: list[Float32] = []  # (4,) x0 y0 x1 y1 swept by each placed thing
    for role in roles:
        color, shape = _draw_look(rng, role, things)
        for _ in range(30):
            direction = str(rng.choice(list(DIRECTIONS)))
            radius = float(rng.uniform(6.5, 8.0))
            offset, visible, acting = _draw_motion(rng, role, steps, direction)
            low, high = MARGIN - offset.min(axis=0), SIZE - MARGIN - offset.max(axis=0)
            path = (rng.uniform(low, high) + offset).astype(np.float32)
            box = np.concatenate([path.min(axis=0) - radius, path.max(axis=0) + radius])
            if all(_apart(box, other) for other in boxes):
                boxes.append(box)
                things.append(Thing(shape, color, role, direction, radius, path, visible, acting))
                break
    order = rng.permutation(len(things))
    return tuple(things[i] for i in order)


def _draw_look(rng: np.random.Generator, role: str, things: list[Thing]) -> tuple[str, str]:
    """A colour and shape not taken yet; half the time one of the two is borrowed from a thing already there."""
    taken = {(thing.color, thing.shape) for thing in things}
    while True:
        color, shape = str(rng.choice(COLORS)), str(rng.choice(SHAPES))
        if things and role == "still" and rng.random() < 0.6:
            model = things[int(rng.integers(len(things)))]
            color, shape = (model.color, shape) if rng.random() < 0.5 else (color, model.shape)
        if (color, shape) not in taken:
            return color, shape


def _draw_motion(rng: np.random.Generator, role: str, steps: int, direction: str) -> tuple[Float32, Mask, Mask]:
    """Offsets (F, 2) from the first position, visibility (F,) and acting steps (T,) of a thing."""
    frames = steps * FRAMES_PER_STEP
    travelled = np.zeros(frames, np.float32)
    visible, acting = np.ones(frames, np.bool_), np.zeros(steps, np.bool_)
    if role == "mover":
        length = int(rng.integers(2, 4))
        start = int(rng.integers(0, max(1, steps - length + 1)))
        acting[start : start + length] = True
        speed = float(rng.uniform(4.5, 6.5))  # pixels per frame
        travelled = np.cumsum(np.repeat(acting, FRAMES_PER_STEP) * speed).astype(np.float32)
    elif role == "flash":
        length = int(rng.integers(1, 3))
        start = int(rng.integers(1, max(2, steps - length)))
        acting[start : start + length] = True
        visible = np.repeat(acting, FRAMES_PER_STEP)
    elif role == "drifter":
        acting[:] = True
        per_step = min(float(rng.uniform(0.85, 0.98)), 40.0 / steps)
        travelled = np.arange(frames, dtype=np.float32) * (per_step / FRAMES_PER_STEP)
    else:
        acting[:] = True
    return travelled[:, None] * np.array(DIRECTIONS[direction], np.float32), visible, acting


def _apart(a: Float32, b: Float32) -> bool:
    return bool(a[0] > b[2] + GAP or b[0] > a[2] + GAP or a[1] > b[3] + GAP or b[1] > a[3] + GAP)


def _questions(rng: np.random.Generator, things: tuple[Thing, ...]) -> tuple[Question, ...]:
    """At most one question per type, each with exactly one right answer."""
    movers = [thing for thing in things if thing.role == "mover"]
    flashes = [thing for thing in things if thing.role == "flash"]
    drifters = [thing for thing in things if thing.role == "drifter"]
    stills = [thing for thing in things if thing.role == "still"]
    questions: list[Question] = []

    def pick(candidates: list[Thing]) -> Thing | None:
        return candidates[int(rng.integers(len(candidates)))] if candidates else None

    def ask(kind: str, text: str, answer: str, *witnesses: Thing) -> None:
        evidence = np.logical_or.reduce([thing.evidence() for thing in witnesses])
        questions.append(Question(kind, text, answer, evidence))

    if thing := pick([m for m in movers if [o.shape for o in movers].count(m.shape) == 1]):
        ask("color", f"what color is the {thing.shape} that moved?", thing.color, thing)
    if thing := pick([m for m in movers if [o.color for o in movers].count(m.color) == 1]):
        ask("shape", f"what shape is the {thing.color} thing that moved?", thing.shape, thing)
    if thing := pick(movers):
        ask("direction", f"which way did the {thing.name} move?", thing.direction, thing)
    if thing := pick(flashes):
        aspect, answer = ("color", thing.color) if rng.random() < 0.5 else ("shape", thing.shape)
        ask("flash", f"what {aspect} was the thing that appeared briefly?", answer, thing)
    events = sorted(movers + flashes, key=lambda thing: int(thing.acting.argmax()))
    pairs = [
        (a, b)
        for i, a in enumerate(events)
        for b in events[i + 1 :]
        if b.acting.argmax() - a.acting.argmax() >= 2 and a.color != b.color
    ]
    if pairs:
        first, second = pairs[int(rng.integers(len(pairs)))]
        one, other = (first, second) if rng.random() < 0.5 else (second, first)
        ask("order", f"which came first, the {one.name} or the {other.name}?", first.color, first, second)
    if thing := pick(drifters):
        ask("drift", "what color is the thing that drifts slowly?", thing.color, thing)
    if movers:
        ask("count", "how many things moved fast?", NUMBERS[len(movers)], *movers)
    if thing := pick([s for s in stills if [o.color for o in things if o.role != "mover"].count(s.color) == 1]):
        ask("still", f"what shape is the {thing.color} thing that never moved?", thing.shape, thing)
    return tuple(questions)
