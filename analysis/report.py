"""All figures on one page that needs nothing else: no network, no other file."""

import argparse
import base64
import html
import os

from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

from . import figures
from .__main__ import ALONE, FIGURES, NOT_SHOWN, add_study_arguments, command_module, load_study, make_parser

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; }
img { max-width: 100%; display: block; margin: 1rem auto; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; }
td, th { padding: 0.15rem 0.8rem; border-bottom: 1px solid #ddd; text-align: left; }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.note { color: #777; } code { background: #f2f2f2; padding: 0.1rem 0.3rem; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Run every command of `FIGURES` on one study and write its files, and `index.html`, into `args.output`."""
    figures.check_writable(args.output)
    study = load_study(args)
    sections = []
    for name, what in FIGURES.items():
        print(f"{name}: {what}")
        # Options that only this command has stay at their defaults.
        own = make_parser(name).parse_args(["--model-dir", args.model_dir])
        try:
            result = command_module(name).run(study, argparse.Namespace(**{**vars(own), **vars(args)}))
        except UserError as error:  # such as a figure about prompts, of a run without
            print(f"  left out: {error}")
            sections.append(section(name, what, [f'<p class="note">Left out: {html.escape(str(error))}.</p>']))
            continue
        figures.save(result, args.output, name)
        note = [f'<p class="note">{NOT_SHOWN}</p>'] if args.compare and name in ALONE else []
        sections.append(section(name, what, [*shown(result, args.output), *note]))
        figures.plt.close("all")
    path = os.path.join(args.output, "index.html")
    with atomic_write(path) as file:
        file.write(page(study, args, sections))
    print(f"written: {path}")


def section(name: str, what: str, body: list[str]) -> str:
    return "\n".join(
        [f'<h2 id="{name}">{html.escape(name)}</h2>', f"<p><strong>{html.escape(what)}</strong></p>", *body]
    )


def shown(result: figures.Result, folder: str) -> list[str]:
    """Figures (from the files in `folder`), how to read them, and numbers, as HTML."""
    images = []
    for stem in result.figures:
        with open(figures.file_path(folder, stem, "png"), "rb") as file:
            data = base64.b64encode(file.read()).decode()
        images.append(f'<img alt="{html.escape(stem)}" src="data:image/png;base64,{data}">')
    rows = [
        f"<tr><td>{html.escape(what)}</td><td>{figures.readable(value)}</td></tr>" for what, value in result.headlines
    ]
    table = ["<table><tr><th>what</th><th>value</th></tr>", *rows, "</table>"] if rows else []
    return [*images, f"<p>How to read it. {html.escape(result.how_to_read)}</p>", *table]


def page(study, args: argparse.Namespace, sections: list[str]) -> str:
    """The whole page."""
    cfg = study.cfg
    about = {
        "tuned run": f"{args.model_dir} ({study.label})",
        "compared with": ", ".join(args.compare) or "nothing",
        "data set": f"{cfg.DATASET.NAME}, {len(study)} test images, {len(study.classnames)} classes, "
        f"{cfg.DATASET.NUM_SHOTS} shots",
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "text of zero-shot CLIP": study.plain.template,
        "text of the tuned run": study.tuned.template,
    }
    rows = [f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in about.items()]
    links = [f'<a href="#{name}">{name}</a>' for name in FIGURES]
    title = f"What tuning did to CLIP: {html.escape(study.label)} on {html.escape(cfg.DATASET.NAME)}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>{title}</title><style>{STYLE}</style></head>",
            f"<body><h1>{title}</h1>",
            "<table>",
            *rows,
            "</table>",
            "<p>" + " · ".join(links) + "</p>",
            *sections,
            "</body></html>\n",
        ]
    )
