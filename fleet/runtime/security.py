"""Who may talk to this node: CURVE keys, an allow-list, and each name bound to its key.

CURVE encrypts and proves that the other side holds a key; ZeroMQ asks the authenticator here whether that key
is on the list. A key's entry also says which addresses its holder may host, so that one replica's key cannot
be used to answer for the router. Beyond loopback all this is required, unless `insecure` says otherwise.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec
import zmq
from msgspec import Meta, Struct
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from fleet.actor import FleetError

T = TypeVar("T")
ZAP_DOMAIN = b"fleet"
OPERATORS = "operator/"
"""How the addresses begin of those who change a running fleet."""


class KeyPair(Struct, frozen=True, forbid_unknown_fields=True):
    """A CURVE key pair, each half as 40 characters of Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:  # a secret must not reach a log
        return f"KeyPair(public={self.public!r})"


class PeerRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the allow-list: the holder of `key` may host addresses that match `hosts`."""

    key: str
    hosts: tuple[str, ...] = ("host/*", "replica/*")
    """Patterns. Only one that begins with ``operator/`` gives the right to operate the fleet; ``*`` does not."""
    name: str | None = None
    """The process name it must use; None: any."""
    peers: Annotated[int, Meta(ge=1)] | None = None
    """How many processes may use it at a time; None: 1,024."""


class AllowList(Struct, frozen=True, forbid_unknown_fields=True):
    """Every key that may connect. As a file, TOML with one ``[[peers]]`` for each."""

    peers: tuple[PeerRule, ...] = ()

    def rule(self, key: str | None) -> PeerRule | None:
        """The entry of a public key."""
        return next((rule for rule in self.peers if rule.key == key), None)


class Owners:
    """Which key each name, host, client and operator belongs to: the first that came with it, while this node runs."""

    def __init__(self, most: int = 16_384) -> None:
        self._most = most
        """Of one key; of more, its oldest is forgotten. Others' keys have no part in that."""
        self._keys: dict[str, str] = {}
        self._owned: dict[str, dict[str, None]] = {}

    def denial(self, key: str, name: str, addresses: tuple[str, ...]) -> str | None:
        """Which of these belongs to another key; None when none does."""
        for called, thing in _things(name, addresses):
            if self._keys.get(thing, key) != key:
                return f"{called!r} belongs to another key"
        return None

    def claim(self, key: str, name: str, addresses: tuple[str, ...]) -> None:
        """These are its own from now on."""
        owned = self._owned.setdefault(key, {})
        for _, thing in _things(name, addresses):
            owned.pop(thing, None)  # what is in use is the newest
            owned[thing], self._keys[thing] = None, key
        while len(owned) > self._most:
            oldest = next(iter(owned))
            del owned[oldest], self._keys[oldest]


def _things(name: str, addresses: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each as it is said, and as it is kept: a name may look like an address. Replicas are the head's to give out."""
    own = (address for address in addresses if not address.startswith("replica/"))
    return [(name, f"name {name}"), *((address, address) for address in own)]


class Security(Struct, frozen=True):
    """What a node needs to speak CURVE.

    One that binds needs `keys` and `allow`; one that connects needs `keys` and the head's public key.
    """

    keys: KeyPair
    allow: AllowList = AllowList()
    server_key: str | None = None


def generate_keys() -> KeyPair:
    """A new key pair, whose public key a command line does not take for an option."""
    while True:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        if not public.startswith("-"):
            return KeyPair(public, secret)


def write_keys(keys: KeyPair, path: Path) -> None:
    """Write a key pair to a new file that only its owner can read; an existing file is never overwritten."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FleetError(f"{path} exists; keys are not overwritten (remove it first)") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(f'public = "{keys.public}"\nsecret = "{keys.secret}"\n'.encode())


def read_keys(path: Path) -> KeyPair:
    """Read what `write_keys` wrote; a file that others can read is refused."""
    if not path.exists():
        raise FleetError(f"{path}: there is no such key file; make one with `fleet keys {path}`")
    keys = _read(path, KeyPair)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise FleetError(f"{path} holds a secret key and others can read it; run: chmod 600 {path}")
    _check_key(keys.public, f"{path}: $.public")
    _check_key(keys.secret, f"{path}: $.secret")
    return keys


def read_allow_list(path: Path) -> AllowList:
    """Read an allow-list from TOML."""
    allow = _read(path, AllowList)
    for index, rule in enumerate(allow.peers):
        _check_key(rule.key, f"{path}: $.peers[{index}].key")
    return allow


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FleetError(f"{path}: {error}") from None


def _check_key(key: str, where: str) -> None:
    try:
        valid = len(key) == 40 and len(z85.decode(key)) == 32
    except (ValueError, KeyError, TypeError, OverflowError):
        valid = False
    if not valid:
        raise FleetError(f"{where}: not a CURVE key (40 characters of Z85)")


def permits(rule: PeerRule, name: str, addresses: tuple[str, ...]) -> str | None:
    """Why the holder of this rule's key may not be `name` and host `addresses`; None when it may."""
    if rule.name is not None and rule.name != name:
        return f"this key belongs to {rule.name!r}, not to {name!r}"
    for address in addresses:
        # Who may operate the fleet is said in so many words: a list that was meant for hosts must not say it too.
        operates = address.startswith(OPERATORS)
        patterns = [pattern for pattern in rule.hosts if pattern.startswith(OPERATORS) or not operates]
        if not any(fnmatchcase(address, pattern) for pattern in patterns):
            hint = f'; "{OPERATORS}*" among its hosts would let it operate the fleet' if operates else ""
            return f"this key may not host {address!r} (only {', '.join(rule.hosts)}){hint}"
    return None


def is_loopback(endpoint: str) -> bool:
    """True where only processes of this host can reach `endpoint`. Wildcards and unknown names are not."""
    parts = urlsplit(endpoint)
    if parts.scheme in ("ipc", "inproc"):
        return True
    host = parts.hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def require_keys(endpoint: str, security: Security | None, *, insecure: bool) -> None:
    """Refuse a public endpoint without keys."""
    if security is None and not insecure and not is_loopback(endpoint):
        raise FleetError(
            f"{endpoint} is open to other hosts and no keys were given: anyone could run requests there. "
            "Give keys and an allow-list, or say `insecure` if the network itself is trusted"
        )


class Authenticator:
    """Answers ZeroMQ's question whether a key may connect (ZAP), on a thread of its own.

    It must run before the first bind: a CURVE socket without an authenticator lets every key in.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allow: AllowList) -> None:
        self._keys = frozenset(rule.key.encode() for rule in allow.peers)
        self.refused = 0
        self.last_refused_key: str | None = None
        self._zap = ThreadAuthenticator(context)
        self._zap.configure_curve_callback(domain=ZAP_DOMAIN.decode(), credentials_provider=self)
        self._zap.start()

    def callback(self, domain: str, key: bytes) -> bool:
        """Called on the authenticator's thread, one handshake at a time."""
        del domain
        if key in self._keys:
            return True
        self.last_refused_key = key.decode("ascii", "replace")
        self.refused += 1
        return False

    def stop(self) -> None:
        """End the thread; before the context is terminated."""
        self._zap.stop()
