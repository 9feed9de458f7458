"""Data sets by name."""

import importlib
import inspect

from datasets import Dataset

from .sources.common import Source
from .sources.companions import MAX_COMPANIONS, with_companions

# name -> (module, attribute); modules are imported when their set is asked for.
_SOURCES = {
    "mimic_cxr": ("mimic_cxr", "SOURCE"),
    "mimic_5x200": ("mimic_cxr", "SOURCE_5X200"),
    "egd": ("egd", "SOURCE"),
    "reflacx": ("reflacx", "SOURCE"),
    "mimic_eye": ("mimic_eye", "SOURCE"),
    "cogaze_release": ("cogaze_release", "SOURCE"),
    "srrg": ("srrg", "SOURCE"),
    "chexpert": ("chexpert", "SOURCE"),
    "chexpert_5x200": ("chexpert", "SOURCE_5X200"),
    "chexpert_8x200": ("chexpert", "SOURCE_8X200"),
    "nih": ("nih", "SOURCE"),
    "nih_sample": ("nih_sample", "SOURCE"),
    "rsna": ("rsna", "SOURCE"),
    "siim": ("siim", "SOURCE"),
    "shenzhen": ("shenzhen", "SOURCE"),
    "montgomery": ("montgomery", "SOURCE"),
    "tbx11k": ("tbx11k", "SOURCE"),
    "openi": ("openi", "SOURCE"),
    "openi_kaggle": ("indiana", "SOURCE_KAGGLE"),
    "openi_r2gen": ("indiana", "SOURCE_R2GEN"),
    "chexpert_plus": ("chexpert_plus", "SOURCE"),
    "rexgradient": ("rexgradient", "SOURCE"),
    "padchest": ("padchest", "SOURCE"),
    "padchest_gr": ("padchest_gr", "SOURCE"),
    "vindr_cxr": ("vindr_cxr", "SOURCE"),
    "vinbigdata": ("vinbigdata", "SOURCE"),
    "ms_cxr": ("ms_cxr", "SOURCE"),
    "ms_cxr_t": ("ms_cxr", "SOURCE_T"),
    "gazesearch": ("gazesearch", "SOURCE"),
}


def names() -> list[str]:
    """Names that `load` knows."""
    return [*_SOURCES, "phantom"]


def source(name: str) -> Source:
    """What is known of a data set.

    Raises:
        ValueError: an unknown name; lists the known ones.
    """
    if name == "phantom":
        return _phantom()
    if name not in _SOURCES:
        raise ValueError(f"name: {name!r} is no data set; there are {', '.join(names())}.")
    module, attribute = _SOURCES[name]
    return getattr(importlib.import_module(f".sources.{module}", __package__), attribute)


def load(name: str, root=None, split: str | None = None, **options) -> Dataset:
    """The records of a data set.

    Args:
        name: one of `names()`.
        root: the folder that it was downloaded to; None for those that come with the package (phantom, openi).
        split: "train", "val", "test" or another that the set or `split_lists` has; None for all (the phantom: train).
        options: of the set's own loader. For all: `priors` and `views` (True or False) give the records companions, an
            earlier study and other views, `max_companions` (3) of them at most; see `with_companions`.

    Raises:
        ValueError: an unknown name or option, and all that the loader says about root, files, columns and splits.
    """
    options = options if split is None else {**options, "split": split}
    loader = source(name).load
    # The phantom has both of its own; elsewhere `views` may also name those to keep.
    wanted = {
        each: options.pop(each)
        for each in ("priors", "views")
        if name != "phantom" and options.get(each) in (True, False)
    }
    most = options.pop("max_companions", MAX_COMPANIONS) if any(wanted.values()) else MAX_COMPANIONS
    signature = inspect.signature(loader)
    try:
        signature.bind(root, **options)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:])
        raise ValueError(f"options: {name}: {error}; there are {known}.") from error
    dataset = loader(root, **options)
    return with_companions(dataset, **wanted, most=most) if any(wanted.values()) else dataset


def _phantom() -> Source:
    def load_phantom(root=None, split: str = "train", **options):
        from .phantom.loading import load_phantom as load

        return load(split=split, **options)

    return Source(
        name="phantom",
        title="CoGaze phantom: chest radiographs rendered from a CT, with reports and simulated gaze",
        load=load_phantom,
        homepage="",
        licence="CC BY 3.0 (the CT: LIDC-IDRI-0001, TCIA)",
        citation="""@article{armato2011lidc,
  title={The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI)},
  author={Armato, Samuel G. and others}, journal={Medical Physics}, volume={38}, number={2}, year={2011}
}""",
        credentialed=False,
        bundled=True,
    )
