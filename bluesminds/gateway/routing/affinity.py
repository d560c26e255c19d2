"""Sends requests with the same beginning to the same server, so that its prompt cache is used.

Rendezvous hashing with weights (Thaler and Ravishankar, 1996; Schindelhauer and Schomaker, 2005) gives every
request an order of the servers. A server that disappears moves only its own requests. Bounded load
(Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016): a server with more than
1.25 times its share of the running requests is passed over.
"""

import math
from hashlib import blake2b
from typing import Final

MAX_SHARE: Final = 1.25
MIN_BOUND: Final = 8  # running requests; below that the shares are too small to compare


def prompt_key(tenant: str, prefix: bytes) -> bytes:
    return blake2b(prefix, digest_size=16, key=tenant.encode()[:64]).digest()


def rendezvous_score(key: bytes, name: str, weight: int) -> float:
    """The target with the highest score comes first."""
    drawn = int.from_bytes(blake2b(name.encode(), digest_size=8, key=key).digest())
    return -weight / math.log((drawn + 1) / (2**64 + 2))


def load_bound(running: int, weight: int, total_weight: int) -> float:
    """The number of running requests at which a target is passed over, if all targets have `running`."""
    return max(MIN_BOUND, MAX_SHARE * (running + 1) * weight / total_weight)
