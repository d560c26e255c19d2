"""Prints measured figures."""


def figure(name: str, value: float, unit: str, bound: str) -> None:
    """Print one figure and the bound that the specification gives for it."""
    print(f"\n{name}: {value:.2f} {unit} (bound: {bound})", flush=True)  # noqa: T201
