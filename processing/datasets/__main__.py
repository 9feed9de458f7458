"""Look at a data set, turn it into shards, put it on the Hub.

python -m processing.datasets check openi
python -m processing.datasets check mimic_cxr /data/mimic-cxr-jpg --option reports_root=/data/mimic-cxr
python -m processing.datasets preview nih /data/nih --count 8
python -m processing.datasets convert nih /data/nih --split train_val --to webdataset --output_dir shards
python -m processing.datasets push_to_hub nih /data/nih --split train_val,test --repo org/nih --private

Exit codes: 0 done, 1 unusable or refused (the reason on stderr), 2 wrong arguments.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from . import registry
from .records import facts_of
from .sources.mimic_shared import UNKNOWN_HEADING
from .storage.cards import prepare_folder, push_folder, refuse_to_share
from .storage.checking import caption, compared, contact_sheet, counts_of, interesting, unreadable
from .storage.shards import write_shards


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def check(arguments) -> int:
    source = registry.source(arguments.name)
    dataset = _load(arguments, arguments.split)
    facts = facts_of(dataset)
    print(f"{source.title}: {len(dataset):,} records{f' of {arguments.split}' if arguments.split else ''}")
    counts = counts_of(dataset)
    for name, count in counts.items():
        print(f"  {name}: {count:,}")
    for line in compared(counts, source, arguments.split):
        print(f"against the published counts: {line}")
    if "listed" in facts:
        refused = sum(facts["refused"].values())
        print(f"{facts['listed']:,} listed: {len(dataset):,} records, {refused:,} refused")
    for kind in ("dropped", "noted"):
        counted = Counter(facts.get(kind, {}))
        headings = {reason: count for reason, count in counted.items() if reason.startswith(UNKNOWN_HEADING)}
        for reason, _ in Counter(headings).most_common()[arguments.list :]:
            counted["headings that are rarer"] += counted.pop(reason)
        for reason, count in counted.items():
            print(f"{kind}: {reason}: {count:,}")
            for file in facts.get("dropped_examples", {}).get(reason, ())[: arguments.list if kind == "dropped" else 0]:
                print(f"    {file}")
    tried, broken = unreadable(dataset, arguments.decode, arguments.num_proc or 1)
    if tried:
        print(f"decoded {tried:,} images, {len(broken):,} of them unreadable")
        for message in broken[: arguments.list]:
            print(f"    {message}")
        if len(broken) == tried:
            print("error: not one image can be read", file=sys.stderr)
            return 1
        _sheet(dataset, arguments)
    return 0


def preview(arguments) -> int:
    dataset = _load(arguments, arguments.split)
    names = facts_of(dataset).get("label_names", [])
    for row in interesting(dataset, arguments.count):
        record = dataset[row]
        print("\n".join([f"[{row}]", *(f"  {line}" for line in caption(record, names))]))
    _sheet(dataset, arguments)
    return 0


def convert(arguments) -> int:
    done = write_shards(
        _load(arguments, arguments.split),
        arguments.output_dir,
        to=arguments.to,
        split=arguments.split or "train",
        max_shard=arguments.max_shard,
        image_size=arguments.image_size,
        skip_unreadable=arguments.skip_unreadable,
        num_proc=arguments.num_proc or 1,
    )
    print(f"{done['records']:,} records, {done['shards']} shards, {done['bytes']:,} bytes under {arguments.output_dir}")
    for message, count in done["skipped"].items():
        print(f"skipped ({count}): {message}")
    return 0


def push_to_hub(arguments) -> int:
    source = registry.source(arguments.name)
    refuse_to_share(source, arguments.private, arguments.i_have_permission)
    names = arguments.split.split(",") if arguments.split else [None]
    splits = {name or "train": _load(arguments, name) for name in names}
    options = {
        "max_shard": arguments.max_shard,
        "image_size": arguments.image_size,
        "skip_unreadable": arguments.skip_unreadable,
        "num_proc": arguments.num_proc or 1,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = prepare_folder(source, splits, arguments.output_dir or temporary, **options)
        if arguments.prepare_only:
            print(f"prepared {folder}, nothing uploaded")
        else:
            done = push_folder(folder, arguments.repo, arguments.private)
            print(f"{done}\n{done.url}" + ("" if done.commit else ": nothing to commit"))
    return 0


def _load(arguments, split: str | None):
    options = dict(arguments.option)
    if arguments.num_proc and arguments.name != "phantom":
        options["num_proc"] = arguments.num_proc
    return registry.load(arguments.name, arguments.root, split, **options)


def _sheet(dataset, arguments) -> None:
    if arguments.sheet is None:
        return
    records = []
    for row in interesting(dataset, 2 * arguments.count):
        try:
            records.append(dataset[row])
        except ValueError:
            continue  # listed above
        if len(records) == arguments.count:
            break
    arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(records, facts_of(dataset).get("label_names", [])).save(arguments.sheet)
    print(f"contact sheet: {arguments.sheet}")


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    return name, yaml.safe_load(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m processing.datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(run, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(run.__name__, help=summary)
        added.set_defaults(run=run)
        added.add_argument("name", choices=registry.names())
        added.add_argument("root", nargs="?", help="the folder that the set was downloaded to")
        added.add_argument("--split", help="push_to_hub takes several, with commas between them")
        added.add_argument(
            "--option", type=_option, action="append", default=[], metavar="NAME=VALUE", help="of the set's loader"
        )
        added.add_argument("--num_proc", type=int)
        return added

    def shard_options(added: argparse.ArgumentParser) -> None:
        added.add_argument("--max_shard", default="500MB")
        added.add_argument("--image_size", type=int, help="reduce pictures to this shortest side")
        added.add_argument("--skip_unreadable", action="store_true")

    checking = command(check, "what is found, against the published counts; unreadable files; a contact sheet")
    checking.add_argument("--decode", type=int, default=None, help="decode only this many images, drawn at random")
    checking.add_argument("--list", type=int, default=20, help="name this many files of a kind")
    checking.add_argument("--sheet", type=Path, help="write a contact sheet (PNG)")
    checking.add_argument("--count", type=int, default=12, help="pictures on the sheet")

    previewing = command(preview, "a few records as text, and as a contact sheet")
    previewing.add_argument("--count", type=int, default=8)
    previewing.add_argument("--sheet", type=Path)

    converting = command(convert, "write shards for streaming")
    converting.add_argument("--to", choices=("parquet", "webdataset"), default="parquet")
    converting.add_argument("--output_dir", type=Path, required=True)
    shard_options(converting)

    pushing = command(push_to_hub, "upload as a data set, with a card")
    pushing.add_argument("--repo", required=True, metavar="ORG/NAME")
    pushing.add_argument("--private", action="store_true")
    pushing.add_argument("--i_have_permission", action="store_true", help="for sources under an agreement")
    pushing.add_argument("--output_dir", type=Path, help="keep what is uploaded in this folder")
    pushing.add_argument("--prepare_only", action="store_true", help="write the folder, upload nothing")
    shard_options(pushing)
    return parser


if __name__ == "__main__":
    sys.exit(main())
