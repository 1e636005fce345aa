"""Pages of HTML from the templates beside this file."""

import os
from typing import Any

import jinja2

from . import figures, sections


def render(template: str, **values: Any) -> str:
    """A page, as HTML; what is in `values` is escaped."""
    loader = jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(__file__)))
    environment = jinja2.Environment(loader=loader, autoescape=True, keep_trailing_newline=True)
    environment.filters |= {"number": figures.format_number, "address": sections.address}
    return environment.get_template(template).render(**values)
