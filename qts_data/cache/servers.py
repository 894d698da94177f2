"""Addresses of the Redis servers: one address, the master that Sentinels name, or the slots of a cluster.

This is the only module that uses redis-py: its URLs, its Sentinel client and its key slots.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel
from redis.crc import key_slot
from redis.exceptions import RedisError

from qts_data.errors import CacheUnavailable, ConfigurationError

if TYPE_CHECKING:
    from qts_data.contracts.cache import CacheConfig

__all__ = ["Address", "Login", "find_master", "first_address", "login", "slot_of"]

_URL_SCHEMES: Final = {"redis", "rediss", "unix"}


@dataclass(frozen=True, slots=True)
class Address:
    """A server.

    Attributes:
        host: Name or address; '' if `path` is given.
        port: Port number.
        path: Path of a unix socket.
    """

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Login:
    """Database, user, password and encryption of a connection.

    Attributes:
        db: Number of the database.
        username: ACL user, None for the default user.
        password: Its password.
        tls: The TLS context; None does not encrypt.
    """

    db: int
    username: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None = None


def _url_parts(config: CacheConfig) -> dict[str, Any]:
    if config.url is None:
        return {}
    if urlsplit(config.url).scheme not in _URL_SCHEMES:
        raise ConfigurationError("the URL of Redis begins with redis://, rediss:// or unix://")
    try:
        return dict(parse_url(config.url))
    except ValueError as error:
        # The URL stays out of the message: it may hold a password.
        raise ConfigurationError("the URL of Redis cannot be read") from error


def first_address(config: CacheConfig) -> Address:
    """Return the address of the configured server, which in a cluster is asked for the others.

    Raises:
        ConfigurationError: The URL cannot be read.
    """
    parts = _url_parts(config)
    if path := parts.get("path"):
        return Address("", 0, str(path))
    return Address(str(parts.get("host", config.host)), int(parts.get("port", config.port)))


def login(config: CacheConfig) -> Login:
    """Return database, user, password and encryption.

    Raises:
        ConfigurationError: The URL or the certificate's file cannot be read.
    """
    parts = _url_parts(config)
    secure = config.tls or (config.url or "").startswith("rediss://")
    try:
        context = ssl.create_default_context(cafile=config.tls_root_certificate) if secure else None
    except OSError as error:
        raise ConfigurationError(f"the certificate {config.tls_root_certificate}: {error}") from error
    return Login(
        db=int(parts.get("db", config.db)),
        username=parts.get("username", config.username),
        password=parts.get("password", config.password),
        tls=context,
    )


async def find_master(config: CacheConfig) -> Address:
    """Ask the Sentinels where the master is now.

    Raises:
        CacheUnavailable: No Sentinel names a master that is up.
    """
    options: dict[str, Any] = {
        "username": config.sentinel_username,
        "password": config.sentinel_password,
        "socket_timeout": config.connect_timeout_seconds,
        "socket_connect_timeout": config.connect_timeout_seconds,
        "retry": None,
        "legacy_responses": False,
    }
    if config.tls:
        options |= {"ssl": True, "ssl_ca_certs": config.tls_root_certificate, "ssl_check_hostname": True}
    sentinel = Sentinel(list(config.sentinels), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    try:
        host, port = await sentinel.discover_master(str(config.sentinel_master))
    except (RedisError, OSError) as error:
        raise CacheUnavailable(f"no Sentinel names a master {config.sentinel_master}: {error}") from error
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
    return Address(str(host), int(port))


def slot_of(key: str) -> int:
    """Return the slot of a key in a Redis Cluster, 0 to 16383 (Redis Cluster specification, CRC16 of the hash tag)."""
    return int(key_slot(key.encode()))
