"""Speed of rendering phantom radiographs.

    python benchmarks/rendering.py [--studies 40] [--sizes 224 512]

Prints images per second with one and two processes, one BLAS thread each, how long the library of bodies takes, and the
processor time of a picture in each appearance, study by study in turn, so that a busy machine slows both alike.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def render(task):
    """Number of images of one study."""
    from processing.datasets.phantom.rendering import render_study
    from processing.datasets.phantom.study import draw_study

    index, size = task
    return len(render_study(draw_study("train", index)[0], size))


def images_per_second(processes, studies, size):
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(render, [(index, size) for index in range(2 * processes)]))  # imports
        begin = time.perf_counter()
        images = sum(pool.map(render, [(index, size) for index in range(studies)], chunksize=4))
        return images / (time.perf_counter() - begin)


def cpu_per_image(studies, size):
    """Appearance -> seconds of processor time per picture, each study rendered in each appearance in turn."""
    from processing.datasets.phantom.appearance import APPEARANCES
    from processing.datasets.phantom.rendering import render_study
    from processing.datasets.phantom.study import draw_study

    spent, images = dict.fromkeys(APPEARANCES, 0.0), 0
    for index in range(studies):
        plan = draw_study("train", index)[0]
        images += len(plan.views)
        for appearance in APPEARANCES:
            render_study(plan, 32, appearance)  # its body, mapped and cached
            begin = time.process_time()
            render_study(plan, size, appearance)
            spent[appearance] += time.process_time() - begin
    return {appearance: seconds / images for appearance, seconds in spent.items()}


def library_seconds(processes):
    from datasets import config

    from processing.datasets.phantom import anatomy as phantom_anatomy

    kept = config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as folder:
        config.HF_DATASETS_CACHE = folder
        phantom_anatomy.library_folder.cache_clear()
        phantom_anatomy.load_body.cache_clear()
        begin = time.perf_counter()
        phantom_anatomy.build_library(processes)
        seconds = time.perf_counter() - begin
    config.HF_DATASETS_CACHE = kept
    phantom_anatomy.library_folder.cache_clear()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--cpu-only", action="store_true", help="the processor time per picture alone")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    arguments = parser.parse_args()
    for name in THREADS:
        os.environ[name] = "1"

    from processing.datasets.phantom.anatomy import BODIES, build_library
    from processing.datasets.phantom.appearance import APPEARANCES, NARROW, WIDE

    for appearance in APPEARANCES:
        build_library(2, appearance)
    for size in arguments.sizes:
        spent = cpu_per_image(arguments.studies, size)
        shown = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in spent.items())
        print(f"{size} px, processor time per picture: {shown}; ratio {spent[WIDE] / spent[NARROW]:.2f}")
    if arguments.cpu_only:
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.studies} studies of one or two images")
    print(f"{'':24}{'1 process':>12}{'2 processes':>14}")
    for size in arguments.sizes:
        one, two = (images_per_second(processes, arguments.studies, size) for processes in (1, 2))
        print(f"{f'{size} px, images/s':24}{one:12.1f}{two:14.1f}")
    print(f"{f'{BODIES} bodies, s':24}{library_seconds(1):12.1f}{library_seconds(2):14.1f}")


if __name__ == "__main__":
    main()
