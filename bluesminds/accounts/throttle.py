"""How often a stranger may try: to sign in, to have work done, to have mail sent.

Each attempt takes a place in every bucket it falls into, all or none, before anything is computed; so a
thousand attempts at once are a thousand attempts. A sign-in that succeeds gives its places back. There is a
bucket for an address and an account together, one for the address and one for the account. One address alone
cannot fill an account's: it runs dry in its own first, and so locks nobody else out. Many addresses can fill
it, but not for who signs in from where this account has signed in before.

All of it runs on the monotonic clock, is in memory, and is bounded.
"""

import ipaddress
from typing import Final

import trio

from bluesminds.common.errors import RateLimited
from storage.single_use_tokens import Purpose

MAX_KEYS: Final = 20_000  # of each bucket


class LeakyBucket:
    """`burst` places for each key; a place comes back every `pause` seconds."""

    def __init__(self, burst: int, pause: float) -> None:
        self._pause = pause
        self._depth = burst * pause
        self._full_at: dict[str, float] = {}  # when all places of a key are back, on Trio's clock

    def wait(self, key: str) -> float:
        """Seconds until there is a place; 0.0 when there is one."""
        now = trio.current_time()
        return max(0.0, self._full_at.get(key, now) - now + self._pause - self._depth)

    def take(self, key: str) -> None:
        """To be called when there is a place."""
        now = trio.current_time()
        if key not in self._full_at and len(self._full_at) >= MAX_KEYS:
            self._make_room(now)
        self._full_at[key] = max(now, self._full_at.get(key, now)) + self._pause

    def give_back(self, key: str) -> None:
        if key in self._full_at:
            self._full_at[key] -= self._pause

    def _make_room(self, now: float) -> None:
        """Drop what is full anyway; if that is little, also the tenth that is nearest to it."""
        kept = sorted(
            ((key, full_at) for key, full_at in self._full_at.items() if full_at > now),
            key=lambda item: item[1],
        )
        self._full_at = dict(kept[max(0, len(kept) - MAX_KEYS * 9 // 10) :])


class Throttle:
    def __init__(self) -> None:
        self._pairs = LeakyBucket(5, 60.0)
        self._addresses = LeakyBucket(20, 10.0)
        self._accounts = LeakyBucket(100, 36.0)
        self._forms = LeakyBucket(20, 30.0)
        self._mails = LeakyBucket(3, 1200.0)
        self._changes = LeakyBucket(300, 3.0)
        self._known: dict[str, None] = {}  # accounts at addresses they have signed in from, the latest last

    def sign_in(self, account: str, address: str) -> None:
        """An attempt to prove being `account`, which counts as failed until it is forgiven. Raises
        RateLimited.
        """
        _take(self._places(account, address))

    def check_sign_in(self, account: str, address: str) -> None:
        """Raises RateLimited where an attempt would, and takes nothing."""
        _check(self._places(account, address))

    def forgive(self, account: str, address: str) -> None:
        """The attempt was good."""
        self.forget(account, address)
        pair = _pair(account, address)
        self._known.pop(pair, None)
        self._known[pair] = None
        if len(self._known) > MAX_KEYS:
            del self._known[next(iter(self._known))]

    def forget(self, account: str, address: str) -> None:
        """The attempt came to nothing, so it was none."""
        for bucket, key in self._places(account, address):
            bucket.give_back(key)

    def form(self, address: str) -> None:
        """Anything else that strangers may ask for. Raises RateLimited."""
        _take([(self._forms, network(address))])

    def change(self, user_id: str) -> None:
        """A change that a signed-in user asks for: each leaves rows that are kept for ever. Raises
        RateLimited.
        """
        wait = self._changes.wait(user_id)
        if wait > 0:
            raise RateLimited(
                "too_many_changes",
                "Too many changes. Wait as long as retry-after says.",
                retry_after=wait,
            )
        self._changes.take(user_id)

    def may_mail(self, purpose: Purpose, email: str) -> bool:
        """Whether one more message may go to this mailbox because somebody asks for it. Who uses up those of
        one purpose leaves those of the others, so the owner of the mailbox is never without a way in.
        """
        key = f"{purpose} {email.lower()}"
        if self._mails.wait(key):
            return False
        self._mails.take(key)
        return True

    def _places(self, account: str, address: str) -> list[tuple[LeakyBucket, str]]:
        pair = _pair(account, address)
        places = [(self._pairs, pair), (self._addresses, network(address))]
        return places if pair in self._known else [*places, (self._accounts, _name(account))]


def _pair(account: str, address: str) -> str:
    return f"{network(address)} {_name(account)}"


def _name(account: str) -> str:
    return account.strip().lower()


def network(address: str) -> str:
    """What one caller has of addresses: the address, or its /64 in IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


def _take(places: list[tuple[LeakyBucket, str]]) -> None:
    _check(places)
    for bucket, key in places:
        bucket.take(key)


def _check(places: list[tuple[LeakyBucket, str]]) -> None:
    wait = max(bucket.wait(key) for bucket, key in places)
    if wait > 0:
        raise RateLimited(
            "too_many_attempts", "Too many attempts. Wait as long as retry-after says.", retry_after=wait
        )
