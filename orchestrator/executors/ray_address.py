"""Checks within seconds that a Ray cluster answers at an address: Ray itself would retry for minutes."""

from __future__ import annotations

import os
import socket

from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError

from orchestrator.errors import ClusterError, first_line

_PROBE_SECONDS = 5.0
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of gRPC begins: the preface of HTTP/2 (RFC 9113, 3.4) with empty settings; a server sends its own."""
_SETTINGS_TYPE = 4
_UNIMPLEMENTED = 12  # the code of gRPC for a service that the server does not have
_SOME_CLUSTER = "00" * 28  # a client without a cluster's id waits for the cluster


def check_address(address: str) -> None:
    """Raise `ClusterError` if `address` is no HOST:PORT where a Ray cluster's head node can listen."""
    if address.startswith("ray://"):
        raise ClusterError(
            f"--address is HOST:PORT of the cluster's head node, or auto, not a Ray Client address: got {address}"
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS) as connection:
            has_tls = os.environ.get("RAY_USE_TLS", "0") == "1"
            is_head = (has_tls or _greets(connection)) and _has_service_of_head(address)
    except (OSError, OverflowError, ValueError) as error:  # ValueError: of a host that no resolver is asked for
        reason = getattr(error, "strerror", None) or error
        raise ClusterError(f"no Ray cluster at --address {address}: {reason}") from None
    if not is_head:
        raise ClusterError(
            f"no Ray cluster at --address {address}: something else listens there; the port of a head node is 6379 "
            "unless `ray start --port` says otherwise"
        )


def _greets(connection: socket.socket) -> bool:
    """Whether the server answers as those of gRPC do."""
    connection.sendall(_HTTP2_GREETING)
    try:
        header = connection.recv(9, socket.MSG_WAITALL)
    except (TimeoutError, ConnectionError):
        return False
    return len(header) == 9 and header[3] == _SETTINGS_TYPE


def _has_service_of_head(address: str) -> bool:
    """Whether the server has what a head node offers; Ray's other ports, such as that of Ray Client, do not."""
    try:
        # A client that finds no token would end the process.
        ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    except RayError as error:
        raise ClusterError(f"--address {address}: {first_line(error)}") from None
    try:
        GcsClient(address=address, cluster_id=_SOME_CLUSTER).check_alive([], timeout=_PROBE_SECONDS)
    except RayError as error:
        return getattr(error, "rpc_code", None) != _UNIMPLEMENTED  # others, as of a token, are told when Ray connects
    return True
