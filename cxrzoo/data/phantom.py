"""A digital chest phantom: frontal radiographs of parametric anatomy, rendered from a seed.

Physics. Every pixel is one parallel, monoenergetic ray. Path lengths (mm) through soft tissue,
lung, air and bone are multiplied by linear attenuation coefficients and summed, Beer-Lambert gives
the primary intensity, a Gaussian blur of it stands for scatter and quantum noise is added. The
logarithm of the signal then passes a sigmoid display curve, so that bone is bright and air dark.

Limits. Organs are projected shapes with analytic depth profiles, not a voxel model: overlapping
organs share the lung's depth as if their positions along the ray were independent. There is no beam
hardening, no divergence and no motion; coefficients are rounded values for about 70 keV. Shapes,
findings and prevalences were chosen by eye, not fitted. The phantom exercises the benchmark's
machinery offline; a score on it is no evidence about real radiographs.

Coordinates: patient millimetres, x towards the patient's left (the image's right) from the
midline, y downwards from the lung apex. An image is a pure function of its `Study`: all randomness
comes from generators keyed by the seed and identifiers, so order and threads do not matter. The
bytes repeat for one numpy build; another build may round a few grey levels differently.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = tuple[float, float]

LABELS: tuple[str, ...] = ("Cardiomegaly", "Consolidation", "Effusion", "Nodule", "Pneumothorax")
NUM_IMAGES = 4000
SIZE_PX = 128
SEED = 20240

# Linear attenuation coefficients in 1/mm, rounded, for an effective energy of about 70 keV.
MU_SOFT, MU_LUNG, MU_BONE = 0.019, 0.005, 0.045

PREVALENCE = (0.15, 0.12, 0.11, 0.11, 0.09)  # before the correlations in `_patient_findings`
IMAGES_PER_PATIENT = (0.60, 0.18, 0.11, 0.07, 0.04)  # probability of 1, 2, 3, 4 and 5 images
PERSISTENCE, NEW_FINDING, MISSING_LABEL = 0.85, 0.02, 0.03  # probabilities

TYPICAL_WIDTH, TYPICAL_HEIGHT = 136.0, 205.0  # lungs: half width; apex to right dome; mm
APEX_X, APEX_DROP = 0.36, 35.0  # lung apex at this share of the half width; medial slope, mm
RIB_RADIUS, RIB_CORTEX, NUM_RIBS = 6.3, 1.5, 11  # mm, mm, pairs
SPINE_HALF_WIDTH, VERTEBRA_PITCH = 18.0, 25.0  # mm
TRACHEA_RADIUS, BRONCHUS_RADIUS = 8.5, 6.0  # mm
DOME_X, RECESS_DROP, DOME_DEPTH = 0.42, 42.0, 40.0  # share of half width, mm, mm
CTR_NORMAL, CTR_LARGE = (0.38, 0.115), (0.505, 0.18)  # cardiothoracic ratio: lowest, range
NODULE_DIAMETER = (6.0, 24.0)  # smallest, range; mm
VESSELS = ((42.0, 4.4), (34.0, 3.3), (26.0, 2.2), (20.0, 1.4))  # length, radius by generation; mm
VESSELS_PER_LUNG, POINTS_PER_VESSEL = 10, 60

_FREQ2: Array = np.add.outer(np.fft.fftfreq(SIZE_PX) ** 2, np.fft.rfftfreq(SIZE_PX) ** 2)
_NOTHING: Array = np.zeros((1, 1))  # an absent finding; broadcasts


@dataclass(frozen=True)
class Study:
    """One radiograph; labels and severities are in the order of `LABELS`."""

    image_id: str
    patient_id: str
    labels: tuple[float, ...]  # 0, 1 or nan where the label is missing
    severities: tuple[float, ...]  # 0 where the finding is absent, else up to 1; never missing
    seed: int

    def severity(self, label: str) -> float:
        """Graded severity of a finding, 0 where it is absent."""
        return self.severities[LABELS.index(label)]


class _Body(NamedTuple):
    """A patient's anatomy as it appears in one image; lengths in mm."""

    half_width: float  # of the rib cage at its widest, inside
    height: float  # from lung apex to the right dome of the diaphragm
    depth: float  # antero-posterior, of the lungs
    wall: float  # soft tissue outside the rib cage
    breast: float  # thickness, 0 for none
    bone: float  # density, as a factor
    dome_gap: float  # how much lower the left dome stands
    heart_width: float
    heart_tilt: float  # radians
    knob: float  # radius of the aortic arch
    rib_phase: float  # share of the distance between ribs
    gas: float  # radius of the gastric bubble
    rotation: float  # shift of the midline organs when the patient stands rotated


class _Grid(NamedTuple):
    """Patient coordinates (mm) of the pixel centres; x is (1, SIZE_PX) and y is (SIZE_PX, 1)."""

    x: Array
    y: Array
    pitch: float  # mm per pixel


def studies(num_images: int = NUM_IMAGES, seed: int = SEED) -> list[Study]:
    """List the radiographs without rendering; a shorter list is a prefix of a longer one."""
    result: list[Study] = []
    patient = 0
    while len(result) < num_images:
        result.extend(_patient_studies(f"phantom-p{patient:05d}", seed))
        patient += 1
    return result[:num_images]


def render(study: Study) -> NDArray[np.uint8]:
    """Render a study as (SIZE_PX, SIZE_PX) grey levels, bright where attenuation is high."""
    body, rng = _body(study), _rng(study.seed, study.image_id, "image")
    grid = _grid(body, rng)
    return _expose(_attenuation(grid, body, study, rng), grid.pitch, rng)


def _rng(seed: int, *names: str) -> np.random.Generator:
    """A generator keyed by names, so that a new draw elsewhere never moves this one."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


# Who has what


def _patient_studies(patient_id: str, seed: int) -> list[Study]:
    """All radiographs of one patient, whose findings mostly persist between them."""
    rng = _rng(seed, patient_id, "findings")
    count = 1 + int(np.searchsorted(np.cumsum(IMAGES_PER_PATIENT)[:-1], rng.random()))
    chance = np.where(_patient_findings(rng), PERSISTENCE, NEW_FINDING)
    base, shape = rng.random(len(LABELS)), (count, len(LABELS))
    severity = np.clip(base + rng.normal(0.0, 0.12, shape), 0.02, 1.0)
    present, missing = rng.random(shape) < chance, rng.random(shape) < MISSING_LABEL
    result = []
    for image in range(count):
        # One shared nan object, so that two equal lists of studies compare equal.
        entries = zip(missing[image], present[image], strict=True)
        labels = tuple(math.nan if gone else float(here) for gone, here in entries)
        severities = tuple((severity[image] * present[image]).tolist())
        result.append(Study(f"{patient_id}-{image + 1}", patient_id, labels, severities, seed))
    return result


def _patient_findings(rng: np.random.Generator) -> list[bool]:
    """Draw the five findings; effusion follows cardiomegaly, consolidation follows effusion."""
    draw = rng.random(len(LABELS)) - PREVALENCE
    heart, effusion = draw[0] < 0.0, draw[2] < 0.22 * (draw[0] < 0.0)
    consolidation = draw[1] < 0.12 * effusion
    return [bool(f) for f in (heart, consolidation, effusion, draw[3] < 0.0, draw[4] < 0.0)]


def _body(study: Study) -> _Body:
    """Anatomy from the patient's generator; inspiration and rotation from the image's."""
    rng, pose = (_rng(study.seed, i, "body") for i in (study.patient_id, study.image_id))
    stocky, ratio = rng.normal(), CTR_NORMAL[0] + CTR_NORMAL[1] * rng.random()
    half_width = TYPICAL_WIDTH + rng.normal(0.0, 9.0)
    if enlarged := study.severity("Cardiomegaly"):
        ratio = CTR_LARGE[0] + CTR_LARGE[1] * enlarged
    return _Body(
        half_width=half_width,
        height=(TYPICAL_HEIGHT + rng.normal(0.0, 12.0)) * pose.uniform(0.85, 1.05),
        depth=165.0 + 4.0 * stocky + rng.normal(0.0, 13.0),
        wall=float(np.clip(24.0 + 8.0 * stocky + rng.normal(0.0, 5.0), 10.0, 50.0)),
        breast=(rng.random() < 0.5) * rng.uniform(8.0, 42.0),
        bone=rng.uniform(0.75, 1.15),
        dome_gap=rng.uniform(5.0, 20.0),
        heart_width=2.0 * half_width * ratio,
        heart_tilt=rng.uniform(0.45, 0.8),
        knob=rng.uniform(12.0, 21.0),
        rib_phase=rng.random(),
        gas=max(0.0, rng.normal(14.0, 12.0)),
        rotation=pose.normal(0.0, 5.0),
    )


def _grid(body: _Body, rng: np.random.Generator) -> _Grid:
    """Position the patient: field of view and offset vary."""
    pitch = rng.uniform(330.0, 400.0) * body.half_width / TYPICAL_WIDTH / SIZE_PX
    steps: Array = (np.arange(SIZE_PX, dtype=np.float64) - (SIZE_PX - 1) / 2) * pitch
    x0, y0 = rng.normal(0.0, 9.0), 0.62 * body.height + rng.normal(0.0, 12.0)
    return _Grid(steps[None, :] + x0, steps[:, None] + y0, pitch)


# Shapes


def _arc(squared_radius: Array) -> Array:
    """Depth profile of an ellipsoid, 1 at its centre and 0 from its rim (radius 1) on."""
    result: Array = 1.0 - squared_radius
    np.maximum(result, 0.0, out=result)
    return np.sqrt(result, out=result)


def _ramp(distance: Array, width: float) -> Array:
    """0 to 1 across an edge of the given width (mm) centred on distance 0."""
    return np.clip(distance / width + 0.5, 0.0, 1.0)


def _ellipse(x: Array, y: Array, centre: Point, radii: Point) -> Array:
    """Depth profile of an ellipsoid with the given centre and radii (mm)."""
    return _arc(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2)


def _capsule(x: Array, y: Array, start: Point, end: Point, radius: float) -> Array:
    """Depth profile of a rod with round ends from start to end (mm)."""
    run, rise = (end[0] - start[0]) / radius, (end[1] - start[1]) / radius
    dx, dy, square = (x - start[0]) / radius, (y - start[1]) / radius, run**2 + rise**2
    share = np.clip(dx * (run / square) + dy * (rise / square), 0.0, 1.0)
    return _arc((dx - share * run) ** 2 + (dy - share * rise) ** 2)


def _tube(distance: Array) -> Array:
    """Bone (mm) met by a ray at a distance from a rib's axis: dense cortex, light marrow."""
    marrow = RIB_RADIUS - RIB_CORTEX
    outer, inner = _arc((distance / RIB_RADIUS) ** 2), _arc((distance / marrow) ** 2)
    return 2.0 * RIB_RADIUS * outer - 1.5 * marrow * inner


def _cage(x: Array, y: Array, body: _Body) -> tuple[Array, Array]:
    """Half width (mm) of the rib cage's inside at each point, and its antero-posterior depth."""
    side = np.abs(x)
    drop = APEX_DROP * np.maximum(1.0 - side / (APEX_X * body.half_width), 0.0) ** 2
    above = np.clip(1.0 - (y - drop) / body.height, 0.0, 1.0)
    half_width = np.maximum(body.half_width * _arc(above**2.4), 1.0)
    return half_width, body.depth * (1.0 - 0.6 * above**2) * _arc((side / half_width) ** 2)


def _diaphragm(x: Array, body: _Body) -> Array:
    """Height y (mm) of the diaphragm's silhouette at each x; the right dome is higher."""
    offset = np.abs(x) / body.half_width - DOME_X
    lateral, medial = np.maximum(offset, 0.0) / (1.0 - DOME_X), np.minimum(offset, 0.0) / DOME_X
    gap = body.dome_gap * _ramp(x, 60.0)
    return body.height + gap + RECESS_DROP * lateral**2 + 12.0 * medial**2


# Anatomy


def _attenuation(grid: _Grid, body: _Body, study: Study, rng: np.random.Generator) -> Array:
    """Line integral of attenuation for every pixel, (SIZE_PX, SIZE_PX), dimensionless."""
    x, y = grid.x, grid.y
    half_width, cavity = _cage(x, y, body)
    air = cavity * _clear_share(x, y, body)
    air *= 1.0 - _effusion(x, y, half_width, body, study)
    air *= 1.0 - _consolidation(grid, body, study)
    air -= np.minimum(_nodules(x, y, body, study), air)
    outside_lung, pleura = _pneumothorax(x, y, body, study)
    vessels = np.minimum(_vessels(grid, body, study) * _ramp(air - 20.0, 40.0), air)
    lung = MU_LUNG * (1.0 + 0.12 * _texture(rng, 5.0 / grid.pitch)) * air
    bone = body.bone * (_ribs(x, y, half_width, body) + _skeleton(x, y, body))
    soft = np.maximum(_outline(x, y, body), cavity + 12.0 * (cavity > 0.0)) - air
    soft -= np.minimum(_airways_and_gas(x, y, body), soft)
    inside = lung + (MU_SOFT - MU_LUNG) * (vessels + pleura)
    return MU_SOFT * soft + (1.0 - outside_lung) * inside + (MU_BONE - MU_SOFT) * bone


def _outline(x: Array, y: Array, body: _Body) -> Array:
    """Soft tissue (mm) of trunk, neck, shoulders, arms and breasts, as if lungs were solid."""
    side, width = np.abs(x), body.half_width + body.wall
    middle, thick = 0.5 * body.height + 120.0, body.depth + 1.6 * body.wall
    trunk = thick * _arc((side / width) ** 3 + ((y - middle) / (middle + 35.0)) ** 4)
    shoulder, elbow = (body.half_width + 28.0, 10.0), (body.half_width + 100.0, 170.0)
    arm = 120.0 * _capsule(side, y, shoulder, elbow, 36.0 + 0.6 * body.wall)
    slope = 145.0 * _capsule(side, y, (25.0, -40.0), shoulder, 48.0 + 0.5 * body.wall)
    neck = 130.0 * _arc((x / (50.0 + 0.4 * body.wall)) ** 2) * _ramp(-y, 60.0)
    nipple = (0.52 * body.half_width, 0.80 * body.height)
    breast = body.breast * _ellipse(side, y, nipple, (58.0, 55.0))
    return np.maximum(np.maximum(trunk, arm), np.maximum(slope, neck)) + breast


def _clear_share(x: Array, y: Array, body: _Body) -> Array:
    """Share of the chest's depth that mediastinum, heart and abdomen leave to the lungs."""
    below = np.maximum(y - _diaphragm(x, body), 0.0)
    clear = 1.0 - np.sqrt(np.minimum(below / DOME_DEPTH, 1.0))
    x, scale = x - body.rotation, body.height / TYPICAL_HEIGHT
    clear *= 1.0 - _arc((x / 24.0) ** 2)
    aortic_knob, left_border = (18.0, 64.0 * scale), (16.0, 125.0 * scale)
    clear *= 1.0 - 0.7 * _ellipse(x, y, aortic_knob, (body.knob, body.knob + 4.0))
    clear *= 1.0 - 0.6 * _ellipse(x, y, left_border, (30.0, 55.0))
    clear *= 1.0 - 0.5 * _ellipse(x, y, (-12.0, 85.0 * scale), (20.0, 90.0))  # vena cava
    clear *= 1.0 - 0.85 * _heart(x, y, body)
    return clear


def _heart(x: Array, y: Array, body: _Body) -> Array:
    """Depth profile of the heart: an ellipsoid pointing down and left, of the given width."""
    cos, sin, stretch = math.cos(body.heart_tilt), math.sin(body.heart_tilt), 0.68
    length = 0.5 * body.heart_width / math.hypot(cos, stretch * sin)
    rise = length * math.hypot(sin, stretch * cos)
    dx, dy = x - 0.17 * body.heart_width, y - (body.height + body.dome_gap - 0.6 * rise)
    along, across = cos * dx + sin * dy, cos * dy - sin * dx
    return _ellipse(along, across, (0.0, 0.0), (length, stretch * length))


def _airways_and_gas(x: Array, y: Array, body: _Body) -> Array:
    """Air (mm) in trachea, main bronchi and stomach."""
    x, carina = x - body.rotation, 88.0 * body.height / TYPICAL_HEIGHT
    trachea = _arc((x / TRACHEA_RADIUS) ** 2) * _ramp(carina - y, 10.0)
    bronchi = _capsule(np.abs(x), y, (2.0, carina), (38.0, carina + 30.0), BRONCHUS_RADIUS)
    stomach = (0.48 * body.half_width, body.height + body.dome_gap + 12.0 + body.gas)
    bubble = _ellipse(x, y, stomach, (1.5 * body.gas + 1.0, body.gas + 1.0))
    return 2.0 * (TRACHEA_RADIUS * trachea + BRONCHUS_RADIUS * bronchi + 1.1 * body.gas * bubble)


def _ribs(x: Array, y: Array, half_width: Array, body: _Body) -> Array:
    """Bone (mm) of posterior and anterior ribs: level curves of two slanted phases."""
    spacing = 1.38 * body.height / NUM_RIBS
    reach = np.minimum(np.abs(x) / half_width, 1.0)
    start, square = y - spacing * (body.rib_phase - 0.6), reach**2
    back = start - reach * (8.0 + 42.0 * square)
    front = start - 141.0 + 112.0 * reach - 21.0 * square  # meets `back` at the lateral wall
    total = np.zeros_like(reach)
    frontal = 0.7 * _ramp(reach - 0.5, 0.3)  # cartilage near the sternum casts no shadow
    for phase, share, last in ((back, 1.0, NUM_RIBS), (front, frontal, NUM_RIBS - 3)):
        number = np.clip(np.round(phase / spacing), 0, last)
        total += share * _tube((phase - number * spacing) * 0.9)
    total /= np.sqrt(1.4 - square)  # the rib turns into the ray's direction
    inside = (np.abs(x) < half_width + 3.0) & (half_width > 2.0)
    return total * inside


def _skeleton(x: Array, y: Array, body: _Body) -> Array:
    """Bone (mm) of spine, clavicles, scapulae and humeri."""
    middle = x - 0.4 * body.rotation
    disc = np.abs(np.mod(y / VERTEBRA_PITCH, 1.0) - 0.5) * 2.0
    spine = _arc((middle / SPINE_HALF_WIDTH) ** 2) * (8.0 + 7.0 * _ramp(0.72 - disc, 0.3))
    pedicles = np.exp(-(((np.abs(middle) - 13.0) / 4.0) ** 2)) * np.exp(-((disc / 0.35) ** 2))
    side, width = np.abs(x - body.rotation), body.half_width
    bend = (0.5 * width, 16.0)
    medial = _capsule(side, y, (14.0, 40.0), bend, 7.0)
    clavicle = np.maximum(medial, _capsule(side, y, bend, (width + 8.0, -8.0), 6.0))
    scapula = _capsule(side, y, (width + 22.0, 30.0), (width - 14.0, 125.0), 4.5)
    shaft = _capsule(side, y, (width + 48.0, 24.0), (width + 120.0, 150.0), 12.0)
    humerus = np.maximum(shaft, _ellipse(side, y, (width + 46.0, 20.0), (24.0, 24.0)))
    return spine + 6.0 * pedicles + 11.0 * clavicle + 6.0 * scapula + 14.0 * humerus


def _vessels(grid: _Grid, body: _Body, study: Study) -> Array:
    """Blood (mm) in two pulmonary trees: points drawn inside tapering tubes, then counted."""
    rng = _rng(study.seed, study.patient_id, "vessels")
    side = np.repeat([-1.0, 1.0], VESSELS_PER_LUNG)
    x, y = 30.0 * side, 108.0 * body.height / TYPICAL_HEIGHT + rng.normal(0.0, 9.0, side.size)
    angle = np.tile(np.linspace(-1.35, 1.3, VESSELS_PER_LUNG), 2)
    steps, image = np.arange(POINTS_PER_VESSEL)[:, None], np.zeros((SIZE_PX, SIZE_PX))
    for length_mm, radius in VESSELS:
        angle = angle + rng.normal(0.0, 0.35, side.size)
        cos, sin = side * np.cos(angle), np.sin(angle)
        length = length_mm * rng.uniform(0.7, 1.3, side.size)
        along = (steps + rng.random((steps.size, side.size))) * length / steps.size
        across = radius * rng.uniform(-1.0, 1.0, along.shape)
        volume = math.pi * radius**2 * length / steps.size
        point_x, point_y = x + cos * along - sin * across, y + sin * along + cos * across
        image += _count(grid, point_x, point_y, volume)
        x, y = np.repeat(x + cos * length, 2), np.repeat(y + sin * length, 2)
        side, angle = np.repeat(side, 2), np.repeat(angle, 2)
    return image


def _count(grid: _Grid, x: Array, y: Array, volume: Array) -> Array:
    """Thickness image (mm) of volumes (mm^3) at points (mm); those outside land on the border."""
    column = np.clip(np.rint((x - grid.x[0, 0]) / grid.pitch), 0, SIZE_PX - 1)
    row = np.clip(np.rint((y - grid.y[0, 0]) / grid.pitch), 0, SIZE_PX - 1)
    index = (row * SIZE_PX + column).astype(np.intp).ravel()
    total = np.bincount(index, np.broadcast_to(volume, x.shape).ravel(), SIZE_PX**2)
    return total.reshape(SIZE_PX, SIZE_PX) / grid.pitch**2


# Findings


def _effusion(x: Array, y: Array, half_width: Array, body: _Body, study: Study) -> Array:
    """Share of depth filled by pleural fluid with a meniscus rising towards the chest wall."""
    severity = study.severity("Effusion")
    if severity == 0.0:
        return _NOTHING
    rng = _rng(study.seed, study.patient_id, "Effusion")
    side, other = rng.choice([-1.0, 1.0]), 0.7 * (rng.random() < 0.35)  # sometimes bilateral
    amount = severity * np.where(x * side > 0.0, 1.0, other)
    height = (30.0 + 120.0 * amount) * (amount > 0.0)
    meniscus = 0.45 + 0.55 * np.exp(-np.maximum(half_width - np.abs(x), 0.0) / 32.0)
    surface = body.height + body.dome_gap + RECESS_DROP - height * meniscus
    return (1.0 - np.exp(-np.maximum(y - surface, 0.0) / 16.0)) * (amount > 0.0)


def _lung_point(rng: np.random.Generator, body: _Body) -> Point:
    """Draw a position (mm) inside either lung."""
    side, across, down = rng.choice([-1.0, 1.0]), rng.uniform(0.42, 0.8), rng.uniform(0.2, 0.85)
    width = body.half_width * (1.0 - 0.35 * (1.0 - down) ** 2)
    return float(side * across * width), float(down * body.height)


def _consolidation(grid: _Grid, body: _Body, study: Study) -> Array:
    """Share of air spaces filled: a patchy blob with a ragged edge, denser if more severe."""
    severity = study.severity("Consolidation")
    if severity == 0.0:
        return _NOTHING
    rng = _rng(study.seed, study.patient_id, "Consolidation")
    x0, y0 = _lung_point(rng, body)
    radius, stretch = 22.0 + 32.0 * severity, rng.uniform(0.8, 1.4)
    distance = np.hypot((grid.x - x0) / radius, (grid.y - y0) / (radius * stretch))
    ragged = 0.35 * _texture(rng, 9.0 / grid.pitch) + 0.15 * _texture(rng, 3.5 / grid.pitch)
    blob = _ramp(0.8 - distance + ragged, 1.5) * (grid.x * x0 > 0.0)
    patchy = 1.0 + 0.25 * _texture(rng, 3.0 / grid.pitch)
    return np.clip((0.25 + 0.6 * severity) * blob * patchy, 0.0, 0.97)


def _nodules(x: Array, y: Array, body: _Body, study: Study) -> Array:
    """Soft tissue (mm) of one to five round nodules of 6 to 30 mm diameter."""
    severity, total = study.severity("Nodule"), _NOTHING
    if severity == 0.0:
        return total
    rng = _rng(study.seed, study.patient_id, "Nodule")
    largest = NODULE_DIAMETER[0] + NODULE_DIAMETER[1] * math.sqrt(severity)
    for _ in range(rng.integers(1, 6)):
        radius = max(NODULE_DIAMETER[0], largest * rng.uniform(0.7, 1.0)) / 2.0
        density = rng.uniform(1.0, 2.2)  # above 1: calcified
        sphere = _ellipse(x, y, _lung_point(rng, body), (radius, radius))
        total = total + 2.0 * radius * density * sphere
    return total


def _pneumothorax(x: Array, y: Array, body: _Body, study: Study) -> tuple[Array, Array]:
    """Share of the ray's air outside the retracted lung, and the pleural line (mm)."""
    severity = study.severity("Pneumothorax")
    if severity == 0.0:
        return _NOTHING, _NOTHING
    side = _rng(study.seed, study.patient_id, "Pneumothorax").choice([-1.0, 1.0])
    hilum_x, hilum_y = side * 32.0, 0.53 * body.height
    shrink = (0.07 + 0.4 * severity) * (1.0 - 0.55 * np.clip(y / body.height, 0.0, 1.0))
    lung_x = hilum_x + (x - hilum_x) / (1.0 - shrink)
    lung_y = hilum_y + (y - hilum_y) / (1.0 - shrink)
    edge = _cage(lung_x, lung_y, body)[0] - np.abs(lung_x)
    here = _ramp(x * side - 20.0, 6.0)
    return here * (1.0 - _ramp(edge, 3.0)), here * 8.0 * np.exp(-(((edge - 2.0) / 1.8) ** 2))


# Detector and display


def _blur(image: Array, sigma_px: float) -> Array:
    """Gaussian blur through the Fourier transform; the frame wraps around."""
    gain = np.exp(_FREQ2 * (-2.0 * (math.pi * sigma_px) ** 2))
    result: Array = np.fft.irfft2(np.fft.rfft2(image) * gain, image.shape)
    return result


def _texture(rng: np.random.Generator, sigma_px: float) -> Array:
    """A smooth random field of unit variance, (SIZE_PX, SIZE_PX)."""
    field = _blur(rng.standard_normal((SIZE_PX, SIZE_PX)), sigma_px)
    return field / float(field.std())


def _expose(attenuation: Array, pitch: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Primary, scatter, noise, automatic window, display curve and collimation."""
    primary = np.exp(-_blur(attenuation, rng.uniform(0.3, 0.6)))
    # Open air would flood the picture with scatter that a real patient does not produce.
    scatter = rng.uniform(0.15, 0.5) * _blur(np.minimum(primary, 0.3), 28.0 / pitch)
    signal = np.maximum(primary + scatter, 1e-4)
    photons = 10.0 ** rng.uniform(3.8, 4.8)
    signal += np.sqrt(signal / photons) * rng.standard_normal(signal.shape)
    density = -np.log(np.maximum(signal, 1e-4))
    chambers = density[SIZE_PX // 5 : -SIZE_PX // 5 : 2, SIZE_PX // 6 : -SIZE_PX // 6 : 2]
    dark, bright = np.quantile(chambers, [0.1, 0.9])
    middle = dark + (bright - dark) * rng.uniform(0.05, 0.32)
    grey = 1.0 / (1.0 + np.exp((middle - density) * (rng.uniform(2.6, 4.2) / (bright - dark))))
    black, white = rng.uniform(0.0, 0.05), rng.uniform(0.88, 1.0)
    grey = _collimate(black + (white - black) * grey, rng)
    return np.round(255.0 * np.clip(grey, 0.0, 1.0)).astype(np.uint8)


def _collimate(grey: Array, rng: np.random.Generator) -> Array:
    """Blacken a margin outside the beam, a few pixels wide, on a quarter of the sides."""
    margins = rng.integers(0, SIZE_PX // 16, 4) * (rng.random(4) < 0.25)
    top, bottom, left, right = (int(margin) for margin in margins)
    result = np.full_like(grey, 0.02)
    window = (slice(top, SIZE_PX - bottom), slice(left, SIZE_PX - right))
    result[window] = grey[window]
    return result
