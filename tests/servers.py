"""gRPC servers on loopback, and waiting for what they do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

PATIENCE_S = 20.0


@asynccontextmanager
async def serving(
    add: Callable[[grpc.aio.Server], None], listen: str = "127.0.0.1:0", options: Sequence[tuple[str, Any]] = ()
) -> AsyncIterator[str]:
    """Runs servicers while the context lasts, on a free port unless told which; gives the address."""
    server = grpc.aio.server(options=options)
    add(server)
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def eventually(condition: Callable[[], Any]) -> None:
    """Waits until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)
