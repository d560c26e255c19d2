"""Applications in Microsoft Entra ID, as they are written in place of an API key."""

import re
from typing import Final

from msgspec import Struct

_PREFIX: Final = "entra:"
_APP: Final = re.compile(r"entra:([\w.-]+):([\w-]+):([!-~]+)\Z", re.ASCII)


class EntraApp(Struct, frozen=True):
    """An application in Microsoft Entra ID, which gets tokens with its secret."""

    tenant: str
    client_id: str
    secret: str

    @classmethod
    def read(cls, credential: str) -> "EntraApp":
        """`entra:TENANT:CLIENT_ID:SECRET`. Raises ValueError without the credential in its message."""
        found = _APP.match(credential)
        if found is None:
            raise ValueError("write it like entra:TENANT_ID:CLIENT_ID:CLIENT_SECRET")
        return cls(*found.groups())

    def __repr__(self) -> str:
        return f"EntraApp({self.tenant!r}, {self.client_id!r})"


def is_entra_app(credential: str | None) -> bool:
    """Whether a credential names an application. Such a credential is never sent to a model server."""
    return credential is not None and credential.startswith(_PREFIX)
