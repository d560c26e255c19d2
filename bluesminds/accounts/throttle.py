"""Rate limits for logins, public forms, changes and mail. In memory, bounded, on the monotonic clock.

A login attempt is counted before anything is computed, so that parallel attempts count too; a successful one
is taken back. An address runs out of attempts at one account before it fills the account's bucket, so it
cannot lock the account out for other addresses. Many addresses can fill that bucket, which does not apply to
an address that has logged in to the account before.
"""

from operator import itemgetter
from typing import Final

import trio

from bluesminds.common.errors import RateLimited
from bluesminds.common.networks import block_of
from storage.single_use_tokens import Purpose

MAX_KEYS: Final = 20_000  # per bucket


class LeakyBucket:
    """Takes `burst` entries for each key; one leaks out every `interval` seconds."""

    def __init__(self, burst: int, interval: float) -> None:
        self._interval = interval
        self._capacity = burst * interval
        self._empty_at: dict[str, float] = {}  # by key, on Trio's clock

    def wait(self, key: str) -> float:
        """Seconds until there is room for an entry; 0.0 now."""
        now = trio.current_time()
        return max(0.0, self._empty_at.get(key, now) - now + self._interval - self._capacity)

    def add(self, key: str) -> None:
        """Call it when `wait` is 0. Above MAX_KEYS, the keys that are nearest to empty are dropped."""
        now = trio.current_time()
        if key not in self._empty_at and len(self._empty_at) >= MAX_KEYS:
            kept = sorted((item for item in self._empty_at.items() if item[1] > now), key=itemgetter(1))
            self._empty_at = dict(kept[-(MAX_KEYS * 9 // 10) :])
        self._empty_at[key] = max(now, self._empty_at.get(key, now)) + self._interval

    def remove(self, key: str) -> None:
        if key in self._empty_at:
            self._empty_at[key] -= self._interval


class Throttle:
    def __init__(self) -> None:
        self._pairs = LeakyBucket(5, 60.0)
        self._addresses = LeakyBucket(20, 10.0)
        self._accounts = LeakyBucket(100, 36.0)
        self._forms = LeakyBucket(20, 30.0)
        self._sign_ins = LeakyBucket(30, 10.0)
        self._code_pairs = LeakyBucket(5, 60.0)
        self._code_accounts = LeakyBucket(20, 300.0)
        self._mails = LeakyBucket(3, 1200.0)
        self._changes = LeakyBucket(300, 3.0)
        self._key_tests = LeakyBucket(10, 30.0)
        self._lists = LeakyBucket(60, 1.0)
        self._known: dict[str, None] = {}  # pairs with a successful login, the latest last

    def count_login_attempt(self, account: str, address: str) -> None:
        """Counts as failed until `reset_on_success` or `release`. Raises RateLimited."""
        _count_attempt(*self._login_entries(account, address))

    def reset_on_success(self, account: str, address: str) -> None:
        self.release(account, address)
        (_, pair), *_ = self._login_entries(account, address)
        self._known.pop(pair, None)
        self._known[pair] = None
        if len(self._known) > MAX_KEYS:
            del self._known[next(iter(self._known))]

    def release(self, account: str, address: str) -> None:
        """Take back an attempt that was not evaluated."""
        for bucket, key in self._login_entries(account, address):
            bucket.remove(key)

    def check_public_form(self, address: str) -> None:
        """Count a request to a public form other than the login. Raises RateLimited."""
        _count_attempt((self._forms, block_of(address)))

    def count_code_attempt(self, user_id: str, address: str) -> None:
        """Count the entry of a one-time code. It counts as failed until `release_code_attempt`. Raises
        RateLimited.
        """
        _count_attempt(*self._code_entries(user_id, address))

    def release_code_attempt(self, user_id: str, address: str) -> None:
        for bucket, key in self._code_entries(user_id, address):
            bucket.remove(key)

    def count_sign_in(self, address: str) -> None:
        """Count a return from a provider. It counts as failed until `release_sign_in`. Raises RateLimited."""
        _count_attempt((self._sign_ins, block_of(address)))

    def release_sign_in(self, address: str) -> None:
        self._sign_ins.remove(block_of(address))

    def check_change(self, user_id: str) -> None:
        """Count a change by a user: each leaves rows that are kept. Raises RateLimited."""
        if wait := self._changes.wait(user_id):
            message = "Too many changes. Wait for the time in the Retry-After header."
            raise RateLimited("too_many_changes", message, retry_after=wait)
        self._changes.add(user_id)

    def check_key_test(self, user_id: str) -> None:
        """Count a test of a user's key at a vendor. Raises RateLimited."""
        if wait := self._key_tests.wait(user_id):
            message = "Too many key tests. Wait for the time in the Retry-After header."
            raise RateLimited("too_many_key_tests", message, retry_after=wait)
        self._key_tests.add(user_id)

    def check_public_list(self, address: str) -> None:
        """Count a request for a public list. Raises RateLimited."""
        block = block_of(address)
        if wait := self._lists.wait(block):
            message = "Too many requests. Wait for the time in the Retry-After header."
            raise RateLimited("too_many_requests", message, retry_after=wait)
        self._lists.add(block)

    def allow_mail(self, purpose: Purpose, email: str) -> bool:
        """Count a mail that a public form requests, per mailbox and purpose: requests for one purpose must
        not block the mails of another.
        """
        key = f"{purpose} {email.lower()}"
        allowed = self._mails.wait(key) == 0
        if allowed:
            self._mails.add(key)
        return allowed

    def _code_entries(self, user_id: str, address: str) -> list[tuple[LeakyBucket, str]]:
        """Six digits need a limit for the account, also for addresses that have logged in to it before."""
        return [(self._code_pairs, f"{block_of(address)} {user_id}"), (self._code_accounts, user_id)]

    def _login_entries(self, account: str, address: str) -> list[tuple[LeakyBucket, str]]:
        account, address = account.strip().lower(), block_of(address)
        pair = f"{address} {account}"
        entries = [(self._pairs, pair), (self._addresses, address)]
        return entries if pair in self._known else [*entries, (self._accounts, account)]


def _count_attempt(*entries: tuple[LeakyBucket, str]) -> None:
    """Add all entries or none. Raises RateLimited."""
    if wait := max(bucket.wait(key) for bucket, key in entries):
        message = "Too many attempts. Wait for the time in the Retry-After header."
        raise RateLimited("too_many_attempts", message, retry_after=wait)
    for bucket, key in entries:
        bucket.add(key)
