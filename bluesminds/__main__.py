"""`python -m bluesminds`, the console script and the packaged executable all start here."""

import sys

try:
    from bluesminds.common.loading import loading

    with loading():
        from bluesminds.cli.app import cli
except KeyboardInterrupt:  # loading takes a moment, and a traceback would show a random import
    sys.stderr.write("error: interrupted\n")
    sys.exit(130)


def main() -> None:
    cli(prog_name="bluesminds")


if __name__ == "__main__":
    main()
