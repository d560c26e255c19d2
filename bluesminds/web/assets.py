"""Static files of the pages, stored in the package."""

from functools import cache
from importlib.resources import files


@cache
def asset(name: str) -> str:
    return files("bluesminds.web").joinpath("assets", name).read_text(encoding="utf-8")
