"""`python -m datasets.prepare NAME`: download a dataset, unpack it into CoOp's layout, and count its images."""

from promptbias.utils.startup import handle_signals

if __name__ == "__main__":
    handle_signals()  # before anything that takes a while

import argparse
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence

from promptbias.utils.download import download
from promptbias.utils.errors import UserError, cli, nearest

from .archives import unpack
from .embedded_sources import EMBEDDED
from .fetches import PREPARE, Fetch, Source
from .sources import SOURCES


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=PREPARE, description=__doc__)
    parser.add_argument("name", nargs="?", help="a dataset of --list")
    parser.add_argument("--root", default=os.environ.get("DATA", "data"), help="data folder (default: $DATA, or data)")
    parser.add_argument("--check", action="store_true", help="only check what exists; writes nothing")
    parser.add_argument("--list", action="store_true", help="show every dataset with its state, size and licence")
    parser.add_argument("--masks", action="store_true", help="with the masks or boxes of the foreground, if it has any")
    parser.add_argument(
        "--any-size", action="store_true", help="unpack archives even to many times their size; only if you trust them"
    )
    args = parser.parse_args(argv)
    root = os.path.abspath(os.path.expanduser(args.root))
    if args.list:
        print(table(root))
    elif args.name is None:
        parser.error("give the name of a dataset, or --list")
    elif args.name not in SOURCES:
        raise UserError(f'there is no dataset "{args.name}"; {nearest(args.name, SOURCES)}')
    elif args.check:
        check(args.name, root, masks=args.masks)
    else:
        prepare(args.name, root, args.any_size, args.masks)


def table(root: str) -> str:
    """All datasets as text: name, state under `root`, download size, licence and manual steps."""
    from tabulate import tabulate

    rows = []
    for name, source in SOURCES.items():
        exists = [is_complete(os.path.join(root, result)) for fetch in source.fetches for result in fetch.results()]
        state = "complete" if all(exists) else "partial" if any(exists) else "-"
        rows.append((name, state, source.size, source.licence, source.manual_steps))
    headers = ("name", "state", "download size", "licence", "manual steps")
    return tabulate(rows, headers, maxcolwidths=[None, None, None, 24, 60])


def fetches_of(name: str, masks: bool) -> tuple[Fetch, ...]:
    """What a dataset needs, with its masks if these are wanted."""
    source = SOURCES[name]
    return source.fetches + (source.masks if masks else ())


def prepare(name: str, root: str, any_size: bool = False, masks: bool = False) -> None:
    """Download and unpack what is missing, as far as possible, then `check`.

    Args:
        any_size: see `unpack`
        masks: whether to fetch the masks of the foreground too

    Raises:
        UserError: a download failed, or the result is not as expected.
    """
    failures = []
    for fetch in fetches_of(name, masks):
        try:
            obtain(fetch, root, any_size)
        except UserError as failure:  # the others are downloaded nevertheless
            print(f"failed   {failure}")
            failures.append(str(failure))
    check(name, root, failures, masks)


def obtain(fetch: Fetch, root: str, any_size: bool = False) -> None:
    """Download and unpack one file, and delete the archive unless the user has provided it."""
    missing = [to for to in fetch.results() if not is_complete(os.path.join(root, to))]
    path = os.path.join(root, fetch.file)
    if missing and fetch.file in MADE_HERE:
        MADE_HERE[fetch.file](path)
    elif missing and (fetch.url or os.path.exists(path)):
        with temporarily_renamed(path, drawn_here(path)):
            provided = os.path.exists(path)
            download(fetch.url, path, md5=fetch.md5)
        if fetch.unpack:
            members = [(member, os.path.join(root, to)) for member, to in fetch.unpack if to in missing]
            with nested_archive(path, fetch.inside, any_size) as archive:
                unpack(archive, members, any_size)
            if not provided:
                os.remove(path)


def is_complete(path: str) -> bool:
    """Whether a file or folder exists; a split that was drawn here does not count, since it is not CoOp's."""
    return os.path.exists(path) and not drawn_here(path)


def drawn_here(path: str) -> bool:
    """Whether a file is a split that `reader` drew."""
    if not (os.path.basename(path).startswith("split_zhou_") and os.path.isfile(path)):
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return '"drawn_by"' in file.read(100)


@contextlib.contextmanager
def temporarily_renamed(path: str, condition: bool) -> Iterator[None]:
    """Rename the file `path` to `path`.drawn if `condition`; it is renamed back if the block fails."""
    if condition:
        os.replace(path, path + ".drawn")
    try:
        yield
    except BaseException:
        if condition:
            os.replace(path + ".drawn", path)
        raise


@contextlib.contextmanager
def nested_archive(path: str, member: str, any_size: bool) -> Iterator[str]:
    """Extract the archive `member` of another one for the duration of the block; `path` itself if `member` is ""."""
    if not member:
        yield path
        return
    inner = os.path.join(os.path.dirname(path), os.path.basename(member))
    unpack(path, [(member, inner)], any_size)
    try:
        yield inner
    finally:
        os.remove(inner)


def check(name: str, root: str, failures: Sequence[str] = (), masks: bool = False) -> None:
    """Print what exists, then read the dataset as training does and compare its counts with CoOp's. Writes nothing.

    Args:
        failures: why something is missing, if known
        masks: whether the masks of the foreground are to exist too

    Raises:
        UserError: something is missing, or a count differs.
    """
    source = SOURCES[name]
    missing = []
    for result in (result for fetch in fetches_of(name, masks) for result in fetch.results()):
        path = os.path.join(root, result)
        print(f"{'exists' if is_complete(path) else 'drawn' if os.path.exists(path) else 'missing':8} {path}")
        if is_complete(path):
            continue
        if os.path.basename(path).startswith("split_zhou_") and not failures:
            print("         replaced by a split of the same sizes drawn from the annotation files, which is not CoOp's")
        else:
            missing.append(path)
    if missing:
        command = f"run `{PREPARE} {name} --root {root}`"
        reasons = [reason for reason in (*failures[:1], source.manual_steps) if reason] or [command]
        raise UserError(f"{name} lacks {', '.join(missing)}: {'; '.join(reasons)}")

    counts = count(source, root)
    for kind, found, expected in zip(("training", "validation", "test"), counts, source.counts):
        print(f"{found:8,} {kind} images")
        if found != expected:
            raise UserError(
                f"{source.dataset} has {found:,} {kind} images in {os.path.join(root, source.folder)}, but the "
                f"benchmark has {expected:,}; delete its images and its split file, and download them again"
            )


def count(source: Source, root: str) -> tuple[int, int, int]:
    """Number of images in train_x, val and test; each must exist."""
    from dassl.config import get_cfg_default
    from dassl.data.datasets import DATASET_REGISTRY

    from . import register_all

    register_all()
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = root
    reader = DATASET_REGISTRY.get(source.dataset)
    read_only = type(source.dataset, (reader,), {"write_cache": lambda self, path, content: None})
    dataset = read_only(cfg)
    return len(dataset.train_x), len(dataset.val or ()), len(dataset.test)


def write_embedded(images: str) -> None:
    """Write the files of an embedded dataset, whose folder holds `images`."""
    from dassl.data.datasets import DATASET_REGISTRY

    from . import register_all

    register_all()
    folder = os.path.dirname(images)
    source = next(source for source in EMBEDDED.values() if source.folder == os.path.basename(folder))
    DATASET_REGISTRY.get(source.dataset).write(folder)


def unpack_imagenet(images: str) -> None:
    """Unpack one part of ImageNet (.../images/train or .../images/val) if the official archives are in its folder."""
    from torchvision.datasets import imagenet as official

    part = os.path.basename(images)
    folder = os.path.dirname(os.path.dirname(images))
    archives = [official.ARCHIVE_META[kind][0] for kind in ("devkit", part)]
    if not all(os.path.exists(os.path.join(folder, archive)) for archive in archives):
        return
    print(f"Unpacking {archives[1]}; this takes a long time")
    parse = {"train": official.parse_train_archive, "val": official.parse_val_archive}[part]
    try:
        official.parse_devkit_archive(folder)
        shutil.rmtree(images + ".unpacking", ignore_errors=True)
        parse(folder, folder=images + ".unpacking")
        os.rename(images + ".unpacking", images)
    except (RuntimeError, OSError) as error:
        raise UserError(f"cannot unpack {archives[1]} in {folder} ({error}); download it again") from error


# What has no address: made from an installed package, or from archives that the user provides.
MADE_HERE: dict[str, Callable[[str], None]] = {
    **{f"{source.folder}/images": write_embedded for source in EMBEDDED.values()},
    "imagenet/images/train": unpack_imagenet,
    "imagenet/images/val": unpack_imagenet,
}

if __name__ == "__main__":
    cli(main)
