"""TLS from PEM files, and what a caller shows at the other end of a hop.

```
client ──Access──► ServerTls  transmitter  Access──► ServerTls  channel  Access──► ServerTls  receiver
```

Files are read once, when a service or a client starts, and checked then: gRPC itself would only fail at the first
handshake, and not say why.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from shared.auth import bearer, read_tokens
from shared.errors import InvalidInputError
from shared.net import is_loopback


@dataclass(frozen=True)
class ServerTls:
    """What a service shows its callers.

    Raises:
        InvalidInputError: a certificate without its key, or the other way round, or a CA of clients without both.
    """

    cert: Path | None = None
    """PEM: the service's certificate, followed by intermediate ones. None: no TLS."""

    key: Path | None = None
    """PEM: the certificate's private key, not encrypted."""

    client_ca: Path | None = None
    """PEM: CAs of the clients; every caller must then have a certificate of one of them (mutual TLS)."""

    def __post_init__(self) -> None:
        _check_pair("tls_cert", "tls_key", self.cert, self.key)
        if self.client_ca and not self.cert:
            raise InvalidInputError("tls_client_ca", "needs a tls_cert and a tls_key")

    def credentials(self) -> grpc.ServerCredentials | None:
        """What gRPC listens with; None without TLS.

        Raises:
            InvalidInputError: a file cannot be read, or is not what it should be.
        """
        if self.cert is None or self.key is None:
            return None
        pair = _pair(("tls_key", self.key), ("tls_cert", self.cert))
        roots = _roots("tls_client_ca", self.client_ca) if self.client_ca else None
        return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)


@dataclass(frozen=True)
class Access:
    """What a caller shows the service at the other end of a hop, and by what it knows that service.

    Raises:
        InvalidInputError: a certificate without its key, or the other way round, or both without a CA.
    """

    ca: Path | None = None
    """PEM: CAs of the service. None: no TLS."""

    cert: Path | None = None
    """PEM: the caller's own certificate, for mutual TLS."""

    key: Path | None = None
    """PEM: its private key, not encrypted."""

    token_file: Path | None = None
    """Its first token goes with every call; see `shared.auth`."""

    server_name: str = ""
    """Name that the service's certificate must have; empty: the host of its address."""

    def __post_init__(self) -> None:
        _check_pair("cert", "key", self.cert, self.key)
        if self.cert and not self.ca:
            raise InvalidInputError("cert", "needs a ca: without one there is no TLS")

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What gRPC connects with; None without TLS.

        Raises:
            InvalidInputError: a file cannot be read, or is not what it should be.
        """
        if self.ca is None:
            return None
        roots = _roots("ca", self.ca)
        if self.cert is None or self.key is None:
            return grpc.ssl_channel_credentials(roots)
        key, cert = _pair(("key", self.key), ("cert", self.cert))
        return grpc.ssl_channel_credentials(roots, key, cert)

    def options(self) -> tuple[tuple[str, str], ...]:
        """Options of the gRPC channel."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()

    def metadata(self, address: str) -> tuple[tuple[str, str], ...]:
        """What goes with every call to a service.

        Args:
            address: HOST:PORT of the service.

        Raises:
            InvalidInputError: the token file cannot be read, or its token would cross a network in the clear.
        """
        if self.token_file is None:
            return ()
        if self.ca is None and not is_loopback(address):
            raise InvalidInputError("token_file", f"the token would go to {address} in the clear; give a ca for TLS")
        return (bearer(read_tokens(self.token_file, "token_file")[0].token),)


def _check_pair(cert_field: str, key_field: str, cert: Path | None, key: Path | None) -> None:
    if cert and not key:
        raise InvalidInputError(key_field, f"is missing: {cert_field} needs it")
    if key and not cert:
        raise InvalidInputError(cert_field, f"is missing: {key_field} needs it")


def _pair(key: tuple[str, Path], cert: tuple[str, Path]) -> tuple[bytes, bytes]:
    """The bytes of a private key and its certificate, which belong together."""
    pair = _read(*key), _read(*cert)
    try:
        # An encrypted key would have OpenSSL ask at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert[1], key[1], password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            raise InvalidInputError(key[0], f"{key[1]} is not the key of {cert[1]}") from error
        raise InvalidInputError(cert[0], f"{cert[1]} and {key[1]} are no certificate and plain key in PEM") from error
    return pair


def _roots(field: str, path: Path) -> bytes:
    """The bytes of a file of CA certificates."""
    data = _read(field, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise InvalidInputError(field, f"{path} holds no certificates in PEM") from error
    return data


def _read(field: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(field, f"cannot read {path}: {error.strerror}") from error
