"""Files that pages are made of, read from beside the code."""

from importlib.resources import files


def asset(name: str) -> str:
    return files("bluesminds.web").joinpath("assets", name).read_text(encoding="utf-8")
