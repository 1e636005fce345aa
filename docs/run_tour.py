"""Runs docs/tour.ipynb in place and keeps what it shows: python docs/run_tour.py (needs the extra `test`)."""

import base64
import io
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

TOUR = Path(__file__).parent / "tour.ipynb"


def run(notebook, parameters: str = ""):
    """Run a notebook in a kernel of its own, which imports this checkout.

    Args:
        notebook: as `nbformat` reads it; its outputs are replaced.
        parameters: code in place of the cell that is tagged "parameters".
    """
    for cell in notebook.cells:
        if parameters and "parameters" in cell.metadata.get("tags", ()):
            cell.source = parameters
    paths = [str(TOUR.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # which the kernel inherits
    return NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False).execute()


def shrink(notebook) -> None:
    """Keep outputs small: pictures as PNG or JPEG, and without their HTML, in which GitHub shows no picture."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                kind, picture = smaller(data["image/png"])
                output["data"] = {kind: picture, "text/plain": ""}


def smaller(png: str) -> tuple[str, str]:
    """A PNG in base64 as the smaller of PNG and JPEG: its kind, and it in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    found = {}
    for kind, options in {"png": {"optimize": True}, "jpeg": {"quality": 75, "subsampling": 0}}.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        found[f"image/{kind}"] = base64.b64encode(buffer.getvalue()).decode()
    return min(found.items(), key=lambda item: len(item[1]))


def main() -> None:
    notebook = run(nbformat.read(TOUR, as_version=4))
    shrink(notebook)
    nbformat.write(notebook, TOUR)
    print(f"{TOUR}: {TOUR.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
