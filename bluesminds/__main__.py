"""`python -m bluesminds`, the console script and the packaged executable all start here.

Loading the program takes a moment. Ctrl-C in it ends the process at once, as it ends any other program,
instead of showing where in the loading it struck.
"""

import signal

_interrupt = signal.getsignal(signal.SIGINT)  # ignored, if that is how the program was started
if _interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from bluesminds.cli.app import cli  # noqa: E402 - loaded under the lines above


def main() -> None:
    signal.signal(signal.SIGINT, _interrupt)
    cli(prog_name="bluesminds")


if __name__ == "__main__":
    main()
