"""Look at rendered radiographs: `python -m processing.datasets.phantom --contact-sheet sheet.png --stats`."""

import argparse
from collections.abc import Sequence

from .appearance import APPEARANCES, NARROW
from .loading import DEFAULT_SIZES, _load
from .sheet import contact_sheet, statistics


def main(arguments: Sequence[str] | None = None):
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m processing.datasets.phantom", description=summary)
    parser.add_argument("--contact-sheet", metavar="PNG", help="write a sheet of labelled examples")
    parser.add_argument("--stats", action="store_true", help="print label prevalences and counts")
    parser.add_argument("--split", default="train", choices=[*DEFAULT_SIZES, "gallery"])
    parser.add_argument("--size", type=int, help="studies; default 12 for a sheet, else the split's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--appearance", default=NARROW, choices=APPEARANCES)
    options = parser.parse_args(arguments)
    if not (options.contact_sheet or options.stats):
        parser.error("say what to make: --contact-sheet PNG or --stats")
    size = options.size or (12 if options.contact_sheet else DEFAULT_SIZES.get(options.split, 200))
    dataset = _load(
        options.split, size, options.seed, options.image_size, 1.0, None, None, appearance=options.appearance
    )
    if options.contact_sheet:
        contact_sheet(dataset, options.contact_sheet)
        print(f"{len(dataset)} images of {size} studies: {options.contact_sheet}")
    if options.stats:
        print(statistics(dataset))


if __name__ == "__main__":
    main()
