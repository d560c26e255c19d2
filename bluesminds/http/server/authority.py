"""Validation of the authority of a request: the Host header, or `:authority` in HTTP/2."""

import re

_LABEL = rb"[A-Za-z0-9_~!$&'()*+;=%-]{1,63}"
_AUTHORITY = re.compile(rb"(?:" + _LABEL + rb"(?:\." + _LABEL + rb")*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_MAX_NAME = 255  # bytes


def is_valid_authority(value: bytes) -> bool:
    """Whether value is `host` or `host:port` (RFC 9110, section 7.2). No user name is allowed.

    A name must also be one that IDNA accepts (labels of 1 to 63 characters), because the control plane's
    router encodes it.
    """
    return len(value.partition(b":")[0]) <= _MAX_NAME and _AUTHORITY.fullmatch(value) is not None
