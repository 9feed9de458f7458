"""How varied the phantom's patients, fields and films are: the settings behind `load_phantom(appearance=...)`.

"narrow" is one CT under gentle deformations, a field that ends at the chest wall and one film; it never changes.
"wide" is what `Appearance` says: bodies that differ more, shoulders, neck, arms and abdomen, many films, and what lies
on patients. Its ranges follow 560 radiographs of NIH ChestX-ray14, as `benchmarks/appearance.py` measures them.
"""

from dataclasses import dataclass

NARROW, WIDE = "narrow", "wide"
APPEARANCES = (NARROW, WIDE)


@dataclass(frozen=True)
class Appearance:
    """The wide appearance. A pair is the bounds of a uniform draw, or mean and standard deviation where it says so.

    bodies: in the library. lung_share: of the picture's width, mean and standard deviation. above: of the picture's
    height, the margin over the lungs, mean and standard deviation. off_centre, turn, roll: standard deviations in mm,
    degrees about the long axis, and degrees in the picture. breath: factor on the height of the lungs; poor_breath:
    share of exposures, and a further factor on theirs. size: standard deviation of the factors on width, depth and
    height. bend: mm by which columns and rows of the picture are displaced smoothly, standard deviation. bone: factor
    on what bone adds. arms: share of frontal pictures with arms beside the chest. mastectomy: share of women.
    scatter, local_contrast, fine_contrast, gradient, blur (mm), dose (log10 of quanta per mm2): of the film.
    lung_grey, bright: grey levels that lungs and dense parts are brought to; shoulder: how far the response saturates
    between them.
    """

    bodies: int = 40
    lung_share: tuple[float, float] = (0.72, 0.09)
    above: tuple[float, float] = (0.09, 0.05)
    off_centre: float = 12.0
    turn: float = 4.0
    roll: float = 2.5
    breath: tuple[float, float] = (0.92, 1.2)
    poor_breath: tuple[float, float] = (0.2, 0.85)
    size: tuple[float, float, float] = (0.07, 0.09, 0.06)
    bend: float = 5.0
    bone: tuple[float, float] = (0.8, 1.8)
    arms: float = 0.85
    mastectomy: float = 0.06
    scatter: tuple[float, float] = (0.4, 1.6)
    local_contrast: tuple[float, float] = (0.0, 0.4)
    fine_contrast: tuple[float, float] = (0.0, 1.2)
    gradient: float = 0.05
    blur: tuple[float, float] = (0.0, 0.8)
    dose: tuple[float, float] = (3.9, 5.4)
    lung_grey: tuple[float, float] = (0.3, 0.64)
    bright: tuple[float, float] = (0.66, 0.9)
    shoulder: tuple[float, float] = (0.0, 2.5)
