"""The fault proxy does what it says: each fault as both sides of a connection see it."""

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
from faults.proxy import Proxy
from harness import until


class Echo(socketserver.ThreadingTCPServer):
    """Sends back whatever comes, and remembers it, and how each connection ended."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echoing)
        self.got = b""
        self.ends: list[str] = []
        self.port: int = self.server_address[1]


class Echoing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Echo)
        end = "closed"
        try:
            while data := self.request.recv(65536):
                self.server.got += data
                self.request.sendall(data)
        except ConnectionError:
            end = "reset"
        self.server.ends.append(end)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as connection:
        assert ask(connection, b"hello") == b"hello"
        yield connection


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 10)


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return take(connection, len(data))


def take(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (data := connection.recv(65536)):
        got += data
    return got


def silent(connection: socket.socket, seconds: float = 0.3) -> bool:
    before = connection.gettimeout()
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(before)
    return False


def works(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"again") == b"again"


def test_it_passes_everything_on(proxy: Proxy, client: socket.socket) -> None:
    data = bytes(range(256)) * 8000
    threading.Thread(target=client.sendall, args=[data], daemon=True).start()
    assert take(client, len(data)) == data
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert proxy.accepted == 1
    assert proxy.up.passed == proxy.down.passed == len(data) + 5
    until(lambda: proxy.open == 0)


def test_delay_holds_back_and_is_no_throttle(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.2)
    began = time.monotonic()
    data = bytes(2_000_000)
    threading.Thread(target=client.sendall, args=[data], daemon=True).start()
    assert take(client, len(data)) == data
    assert 0.4 <= time.monotonic() - began < 4  # 31 chunks, each way
    proxy.heal()
    assert ask(client, b"still there") == b"still there"


def test_throttle_lets_little_pass(proxy: Proxy, client: socket.socket) -> None:
    proxy.throttle(10_000)
    began = time.monotonic()
    assert ask(client, bytes(5000)) == bytes(5000)
    assert time.monotonic() - began > 0.4
    proxy.heal()
    assert ask(client, b"still there") == b"still there"


def test_blackhole_says_nothing_and_loses_nothing(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.blackhole()
    client.sendall(b"lost?")
    with connect(proxy) as newcomer:
        newcomer.sendall(b"and I?")
        assert silent(newcomer)
        assert silent(client)
        assert echo.got == b"hello"
        proxy.heal()
        assert take(newcomer, 6) == b"and I?"
        assert take(client, 5) == b"lost?"


def test_reset_is_a_reset_on_both_sides(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    until(lambda: echo.ends == ["reset"])
    works(proxy)


def test_half_close_ends_one_direction(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.half_close()
    assert client.recv(1) == b""
    client.sendall(b"more")
    until(lambda: echo.got == b"hellomore")
    assert echo.ends == []
    proxy.heal()
    until(lambda: echo.ends == ["reset"])
    works(proxy)


def test_refuse_ends_what_there_is_and_lets_nobody_in(proxy: Proxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.heal()
    works(proxy)


@pytest.mark.parametrize("count", [1, 5000, 100_000])
def test_cut_after_lets_exactly_so_much_pass(proxy: Proxy, client: socket.socket, echo: Echo, count: int) -> None:
    proxy.cut_after(count)
    assert proxy.armed
    with contextlib.suppress(ConnectionError):
        client.sendall(bytes(300_000))
    until(lambda: len(echo.ends) == 1)
    assert len(echo.got) == 5 + count
    assert not proxy.armed
    assert proxy.cuts == 1
    with contextlib.suppress(ConnectionError):  # the end alone is as good as a reset
        while client.recv(65536):
            pass
    works(proxy)


def test_cut_at_answer_comes_after_the_server_has_done_its_work(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.cut_at_answer(larger_than=8)
    assert ask(client, b"8 bytes.") == b"8 bytes."  # too small for an answer
    client.sendall(b"nine bytes")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.got.endswith(b"nine bytes")
    assert proxy.down.dropped == 10
    works(proxy)


def test_drop_loses_one_direction(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.drop("down")
    client.sendall(b"heard")
    assert silent(client)
    assert echo.got == b"helloheard"
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    works(proxy)


def test_stall_holds_one_direction(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.stall("down")
    client.sendall(b"heard")
    assert silent(client)
    assert echo.got == b"helloheard"
    proxy.heal()
    assert take(client, 5) == b"heard"


def test_a_server_that_is_away_is_a_reset(proxy: Proxy, echo: Echo) -> None:
    echo.shutdown()
    echo.server_close()
    with pytest.raises(ConnectionResetError), connect(proxy) as client:  # it may be reset before it is used
        client.recv(1)
