"""Static files of the pages, stored in the package."""

from importlib.resources import files


def asset(name: str) -> str:
    return files("bluesminds.web").joinpath("assets", name).read_text(encoding="utf-8")
