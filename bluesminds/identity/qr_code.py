"""QR codes as SVG, for what a phone reads from a page."""

import io


def qr_svg(text: str) -> bytes:
    """An image that scales with the page; black on white, because scanners need it also in dark pages."""
    import segno  # for the few requests that need it

    found = io.BytesIO()
    segno.make_qr(text, error="m").save(
        found, kind="svg", border=4, light="#fff", xmldecl=False, omitsize=True
    )
    return found.getvalue()
