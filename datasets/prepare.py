"""`python -m datasets.prepare NAME`: fetch a dataset, unpack it where CoOp has it, and count what is there."""

import argparse
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence

from promptbias.utils.errors import UserError, cli, nearest
from promptbias.utils.files import download

from .archives import unpack
from .sources import SOURCES, Fetch, Source
from .splits import DRAWN_BY


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m datasets.prepare", description=__doc__)
    parser.add_argument("name", nargs="?", help="a dataset, by its name in --list")
    parser.add_argument("--root", default=os.environ.get("DATA", "data"), help="data folder (default: $DATA, or data)")
    parser.add_argument("--check", action="store_true", help="only verify what is there; writes nothing")
    parser.add_argument("--list", action="store_true", help="show every dataset with its state, size and licence")
    args = parser.parse_args(words)
    root = os.path.abspath(os.path.expanduser(args.root))
    if args.list:
        print(table(root))
    elif args.name is None:
        parser.error("name a dataset, or --list them")
    elif args.name not in SOURCES:
        raise UserError(f'there is no dataset "{args.name}" ({nearest(args.name, SOURCES)})')
    elif args.check:
        check(args.name, root)
    else:
        prepare(args.name, root)


def table(root: str) -> str:
    """All datasets: name, state under `root`, download size, licence, and what has to be fetched by hand."""
    from tabulate import tabulate

    rows = []
    for name, source in SOURCES.items():
        there = [is_there(os.path.join(root, result)) for fetch in source.fetches for result in fetch.results()]
        state = "there" if all(there) else "partly there" if any(there) else "-"
        rows.append((name, state, source.size, source.licence, source.by_hand))
    headers = ("name", "state", "download, about", "licence", "to fetch by hand")
    return tabulate(rows, headers, maxcolwidths=[None, None, None, 24, 60])


def prepare(name: str, root: str) -> None:
    """Fetch and unpack what is missing, as far as possible, then `check`.

    Raises:
        UserError: something could not be fetched, or is not what it should be.
    """
    failures = []
    for fetch in SOURCES[name].fetches:
        try:
            obtain(fetch, root)
        except UserError as failure:  # does not keep the others from coming
            print(f"failed   {failure}")
            failures.append(str(failure))
    check(name, root, failures)


def obtain(fetch: Fetch, root: str) -> None:
    """One step: have a file, unpack it, and delete an archive that was downloaded for it."""
    missing = [to for to in fetch.results() if not is_there(os.path.join(root, to))]
    path = os.path.join(root, fetch.file)
    if missing and fetch.file in MADE_HERE:
        MADE_HERE[fetch.file](path)
    elif missing and (fetch.url or os.path.exists(path)):
        with aside(path, drawn_here(path)):
            by_hand = os.path.exists(path)
            download(fetch.url, path, md5=fetch.md5)
        if fetch.unpack:
            members = [(member, os.path.join(root, to)) for member, to in fetch.unpack if to in missing]
            with archive_inside(path, fetch.inside) as archive:
                unpack(archive, members)
            if not by_hand:
                os.remove(path)


def is_there(path: str) -> bool:
    """Whether a file or folder is there; a split that was drawn here is not CoOp's."""
    return os.path.exists(path) and not drawn_here(path)


def drawn_here(path: str) -> bool:
    """Whether a file is a split that `reader` has drawn."""
    if not (os.path.basename(path).startswith("split_zhou_") and os.path.isfile(path)):
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return DRAWN_BY in file.read(100)


@contextlib.contextmanager
def aside(path: str, really: bool) -> Iterator[None]:
    """Have the file `path` out of the way, as `path`.drawn; it comes back if the block fails."""
    if really:
        os.replace(path, path + ".drawn")
    try:
        yield
    except BaseException:
        if really:
            os.replace(path + ".drawn", path)
        raise


@contextlib.contextmanager
def archive_inside(path: str, member: str) -> Iterator[str]:
    """The archive that is packed in another as `member`, while the block lasts; `path` itself if that is ""."""
    if not member:
        yield path
        return
    inner = os.path.join(os.path.dirname(path), os.path.basename(member))
    unpack(path, [(member, inner)])
    try:
        yield inner
    finally:
        os.remove(inner)


def check(name: str, root: str, failures: Sequence[str] = ()) -> None:
    """Say what is there, then read the dataset as training does and compare its counts with CoOp's. Writes nothing.

    Args:
        failures: why something is missing, where that is known

    Raises:
        UserError: something is missing, or a count differs.
    """
    source = SOURCES[name]
    missing = []
    for result in (result for fetch in source.fetches for result in fetch.results()):
        path = os.path.join(root, result)
        print(f"{'there' if is_there(path) else 'drawn' if os.path.exists(path) else 'missing':8} {path}")
        if is_there(path):
            continue
        if os.path.basename(path).startswith("split_zhou_") and not failures:
            print(
                "         a split of the same sizes, drawn from the annotation files, takes its place; it is not CoOp's"
            )
        else:
            missing.append(path)
    if missing:
        command = f"`python -m datasets.prepare {name} --root {root}` fetches it"
        reasons = [reason for reason in (*failures[:1], source.by_hand) if reason] or [command]
        raise UserError(f"{name} lacks {', '.join(missing)}: {'; '.join(reasons)}")

    counts = count(source, root)
    for kind, found, expected in zip(("training", "validation", "test"), counts, source.counts):
        print(f"{found:8,} {kind} images")
        if found != expected:
            raise UserError(
                f"{source.dataset} has {found:,} {kind} images in {os.path.join(root, source.folder)} where the "
                f"benchmark has {expected:,}; delete its images and its split file, and fetch them again"
            )


def count(source: Source, root: str) -> tuple[int, int, int]:
    """Images in train_x, val and test, each of which is a file."""
    from dassl.config import get_cfg_default
    from dassl.data.datasets import DATASET_REGISTRY

    from . import register_all

    register_all()
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = root
    reader = DATASET_REGISTRY.get(source.dataset)
    without_writing = type(source.dataset, (reader,), {"keep": lambda self, path, content: None})
    dataset = without_writing(cfg)
    return len(dataset.train_x), len(dataset.val or ()), len(dataset.test)


def make_digits(images: str) -> None:

    from .digits import write_digits

    write_digits(os.path.dirname(images))


def unpack_imagenet(images: str) -> None:
    """Unpack `images`/{train,val} from the official archives, where somebody has put them into the dataset's folder."""
    from torchvision.datasets import imagenet as official

    part = os.path.basename(images)
    folder = os.path.dirname(os.path.dirname(images))
    archives = [official.ARCHIVE_META[kind][0] for kind in ("devkit", part)]
    if not all(os.path.exists(os.path.join(folder, archive)) for archive in archives):
        return
    print(f"Unpacking {archives[1]}; this takes long")
    parse = {"train": official.parse_train_archive, "val": official.parse_val_archive}[part]
    try:
        official.parse_devkit_archive(folder)
        shutil.rmtree(images + ".unpacking", ignore_errors=True)
        parse(folder, folder=images + ".unpacking")
        os.rename(images + ".unpacking", images)
    except (RuntimeError, OSError) as error:
        raise UserError(f"cannot unpack {archives[1]} in {folder}: {error}") from error


# What no address gives: made from what is installed, or from what somebody has put there.
MADE_HERE: dict[str, Callable[[str], None]] = {
    "digits/images": make_digits,
    "imagenet/images/train": unpack_imagenet,
    "imagenet/images/val": unpack_imagenet,
}

if __name__ == "__main__":
    cli(main)
