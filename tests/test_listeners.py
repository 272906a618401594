import gc
import socket
import stat

import pytest
from harness import free_port

from webhookd.errors import StartError
from webhookd.listeners import inherited, listen

# Tornado leaves a socket that could not be bound to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def swept():
    """Sweep up such sockets here, and not in another test."""
    yield
    gc.collect()


def answers(listener) -> bool:
    family, address = listener.sockets[0].family, listener.sockets[0].getsockname()
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1"), ("[::1]", "http://[::1]")])
def test_tcp(host, url):
    port = free_port()
    listener = listen(f"{host}:{port}", "listen")
    assert listener.url == f"{url}:{port}"
    assert answers(listener)
    listener.close()


def test_a_port_in_use_is_one_line_that_names_the_setting():
    port = free_port()
    first = listen(f"127.0.0.1:{port}", "listen")
    with pytest.raises(StartError, match=rf"127.0.0.1:{port}: Address already in use; .*admin_listen") as caught:
        listen(f"127.0.0.1:{port}", "admin_listen")
    assert "\n" not in str(caught.value)
    first.close()


@pytest.mark.parametrize("address", ["nowhere.invalid:80", "192.0.2.1:80"])
def test_an_address_that_is_not_ours(address):
    with pytest.raises(StartError, match=f"cannot listen on {address}: "):
        listen(address, "listen")


def test_unix_sockets(tmp_path):
    path = tmp_path / "web.sock"
    listener = listen(f"unix:{path}", "listen")
    assert listener.url == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert answers(listener)
    with pytest.raises(StartError, match="in use"):
        listen(f"unix:{path}", "listen")
    for one in listener.sockets:
        one.close()
    again = listen(f"unix:{path}", "listen")  # what a killed daemon left behind is no obstacle
    assert answers(again)
    again.close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(StartError, match="a file is there"):
        listen(f"unix:{path}", "listen")
    assert path.read_text() == "precious"
    with pytest.raises(StartError, match="No such file"):
        listen(f"unix:{tmp_path}/missing/web.sock", "listen")


def test_inherited_sockets_are_served_and_a_path_is_left_to_its_owner(tmp_path):
    opened = socket.create_server(("127.0.0.1", 0))
    port = opened.getsockname()[1]
    listener = inherited([opened])
    assert listener.url == f"http://127.0.0.1:{port}"
    listener.close()
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))
        opened.listen()
        listener = inherited([opened])
        assert listener.url == f"inherited unix:{path}"
        listener.close()
        assert path.exists()
