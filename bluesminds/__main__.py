"""`python -m bluesminds`, the console script and the packaged executable all start here."""

from bluesminds.cli.app import cli


def main() -> None:
    cli(prog_name="bluesminds")


if __name__ == "__main__":
    main()
