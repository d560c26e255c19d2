"""URLs of databases."""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for a PostgreSQL URL. Raises ValueError for an invalid URL; its message
    contains no part of the URL.
    """
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:  # PostgreSQL takes several hosts, each with its port
            _ = parts.port
    except ValueError:
        # the cause quotes a part of the URL, which may be a part of the password
        raise ValueError("the URL is invalid: write special characters in a password as %XX") from None
    if parts.scheme == "sqlite":
        path = Path("/" + unquote(parts.path).lstrip("/"))
        if path.name == ":memory:":
            raise ValueError("a database in memory is not supported; name a file")
        if parts.netloc or parts.query or parts.fragment or not path.name:
            raise ValueError("a SQLite URL looks like sqlite:///absolute/path/to/file.db")
        return path
    if parts.scheme in ("postgres", "postgresql"):
        query = parse_qs(parts.query)
        if not parts.path.strip("/") and not {"dbname", "database"} & query.keys():
            raise ValueError("a PostgreSQL URL must name the database: postgresql://user:password@host/name")
        return None
    raise ValueError("a database URL must begin with sqlite:// or postgresql://")
