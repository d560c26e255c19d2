"""`python -m bluesminds`, the console script and the packaged executable all start here.

Loading the program takes a moment. Ctrl-C in it ends the process at once, as it ends any other program,
instead of showing where in the loading it struck; a command that works catches it (see cli/interrupt.py).
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it was started with Ctrl-C ignored
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from bluesminds.cli.app import cli  # loaded under the lines above


def main() -> None:
    cli(prog_name="bluesminds")


if __name__ == "__main__":
    main()
