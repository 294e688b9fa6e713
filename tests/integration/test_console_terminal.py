"""`dvcr vm console` from the user's side: a real terminal (a pty), or none; the machine is a few lines of Python."""

import asyncio
import os
import pty
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from controller.consoles.terminal import attach, pipe
from controller.relay import Upstream, connect, new_session

GREETING = b"welcome\r\n"


class EchoMachine:
    """Greets, then answers every line in capitals; `bye` ends it."""

    def __init__(self) -> None:
        self.typed = b""
        self.left = asyncio.Event()
        self.url = ""

    async def console(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_bytes(GREETING)
        async for message in socket:
            assert message.type is WSMsgType.BINARY
            self.typed += message.data
            # The end of a stream is answered with its end: an empty message.
            await socket.send_bytes(message.data.upper())
            if b"bye" in self.typed:
                await socket.close()
        self.left.set()
        return socket


@asynccontextmanager
async def running_machine() -> AsyncIterator[EchoMachine]:
    machine = EchoMachine()
    app = web.Application()
    app.router.add_get("/console", machine.console)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    machine.url = f"http://127.0.0.1:{runner.addresses[0][1]}/console"
    try:
        yield machine
    finally:
        await runner.cleanup()


def with_machine(test: Callable[[EchoMachine], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running_machine() as machine, asyncio.timeout(20):
            await test(machine)

    asyncio.run(run())


async def attached(machine: EchoMachine, input_fd: int, output_fd: int) -> None:
    async with new_session() as session:
        await attach(await connect(session, Upstream(machine.url)), input_fd, output_fd)


async def read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += await asyncio.to_thread(os.read, fd, 4096)
    return seen


def test_on_a_terminal_keys_go_to_the_machine_unchanged_and_ctrl_right_bracket_leaves() -> None:
    async def use(machine: EchoMachine) -> None:
        ours, terminal = pty.openpty()
        before = termios.tcgetattr(terminal)
        leaving = asyncio.create_task(attached(machine, terminal, terminal))
        await read_until(ours, GREETING)
        os.write(ours, b"ls\x03\x04")
        await read_until(ours, b"LS\x03\x04")
        assert not leaving.done()
        os.write(ours, b"x\x1dignored")
        await leaving

        await machine.left.wait()
        assert machine.typed == b"ls\x03\x04x"
        assert termios.tcgetattr(terminal) == before
        os.close(ours)
        os.close(terminal)

    with_machine(use)


def test_without_a_terminal_input_is_sent_and_output_printed_until_the_machine_ends() -> None:
    async def use(machine: EchoMachine) -> None:
        input_read, input_write = os.pipe()
        output_read, output_write = os.pipe()
        ending = asyncio.create_task(attached(machine, input_read, output_write))
        os.write(input_write, b"hello \x1d bye")
        os.close(input_write)
        await ending
        os.close(output_write)

        assert os.read(output_read, 4096) == GREETING + b"HELLO \x1d BYE"
        os.close(output_read)
        os.close(input_read)

    with_machine(use)


def test_output_goes_on_after_the_end_of_input() -> None:
    async def use(machine: EchoMachine) -> None:
        nothing = os.open(os.devnull, os.O_RDONLY)
        output_read, output_write = os.pipe()
        watching = asyncio.create_task(attached(machine, nothing, output_write))
        await read_until(output_read, GREETING)

        assert not watching.done()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        for fd in (nothing, output_read, output_write):
            os.close(fd)

    with_machine(use)


def test_a_pipe_tells_the_end_of_its_input_and_ends_with_the_stream() -> None:
    async def use(machine: EchoMachine) -> None:
        input_read, input_write = os.pipe()
        output_read, output_write = os.pipe()
        os.write(input_write, b"hello \x1d")
        os.close(input_write)
        async with new_session() as session:
            await pipe(await connect(session, Upstream(machine.url)), input_read, output_write)
        os.close(output_write)

        assert os.read(output_read, 4096) == GREETING + b"HELLO \x1d"
        os.close(output_read)
        os.close(input_read)

    with_machine(use)
