"""Services as child processes: ready, dead, deaf to SIGTERM, orphaned; and the real three by `mmsc up`."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from client_fakes import photo

from client import stack as stack_module
from client.child import Child
from client.stack import LocalStack, StackConfig
from shared.errors import DeadlineError, InvalidInputError, UnavailableError
from shared.pictures import png_bytes

PATIENCE_S = 60.0

READY = 'import json, sys, time\nprint(json.dumps({"service": "x", "listen": "127.0.0.1:7"}), flush=True)\n'
SERVICES = {
    "fake_ready": READY + "time.sleep(600)\n",
    "fake_echo": "import sys\nprint('hello', flush=True)\n"
    + READY.replace('"127.0.0.1:7"', "sys.argv[1]")
    + "time.sleep(600)\n",
    "fake_deaf": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(600)\n",
    "fake_dead": "import sys\nprint('first', file=sys.stderr)\nsys.exit('fake: no weights')\n",
    "fake_mute": "import sys\nsys.exit(3)\n",
    "fake_draining": "import signal, sys, time\n"
    "def note(word):\n    open(sys.argv[2], 'a').write(f'{sys.argv[1]} {word}\\n')\n"
    "def drain(*_):\n    note('stops')\n    time.sleep(0.1)\n    note('ended')\n    sys.exit()\n"
    "signal.signal(signal.SIGTERM, drain)\n" + READY + "time.sleep(600)\n",
    "fake_slow": "import time\ntime.sleep(600)\n",
}


@pytest.fixture(autouse=True)
def fake_services(tmp_path, monkeypatch):
    for name, code in SERVICES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def child():
    children = []

    def start(module, *arguments, on_line=None):
        children.append(Child(module, module, arguments, ended=threading.Event(), on_line=on_line))
        return children[-1]

    yield start
    for each in children:
        each.stop(0)


def later(seconds=PATIENCE_S):
    return time.monotonic() + seconds


def gone(pid):
    """Whether the process has ended, waiting for that as long as anything may take here."""
    until = later()
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_child_is_ready_where_it_says(child):
    running = child("fake_echo", "127.0.0.1:9")
    assert running.wait_ready(later()) == "127.0.0.1:9"
    assert not running.has_ended
    running.ask_to_stop()
    running.stop(later())
    assert running.has_ended
    assert gone(running.pid)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("fake_dead", "fake_dead ended with code 1: fake: no weights"),
        ("fake_mute", "fake_mute ended with code 3: it said nothing"),
        ("fake_absent", "No module named fake_absent"),
    ],
)
def test_a_child_that_dies_tells_why(child, module, said):
    lines = []
    with pytest.raises(UnavailableError, match=said):
        child(module, on_line=lambda name, line: lines.append((name, line))).wait_ready(later())
    assert ("fake_dead", "first") in lines or module != "fake_dead"


def test_a_child_that_is_never_ready_is_given_up(child):
    with pytest.raises(DeadlineError, match="fake_slow was not ready"):
        child("fake_slow").wait_ready(later(0))


def test_a_child_deaf_to_sigterm_is_killed(child):
    running = child("fake_deaf")
    running.wait_ready(later())
    running.ask_to_stop()
    assert not running.has_ended
    running.stop(later(0.1))
    assert gone(running.pid)


def test_children_end_with_a_parent_that_was_killed():
    parent = (
        "import threading, time\nfrom client.child import Child\n"
        "child = Child('fake_ready', 'fake_ready', (), ended=threading.Event())\n"
        "child.wait_ready(time.monotonic() + 60)\nprint(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert gone(pid)


def test_when_one_service_dies_at_the_start_the_others_are_stopped(monkeypatch):
    started = []

    def run(self, name, module, arguments):
        module = {"receiver": "fake_dead"}.get(name, "fake_ready")
        self._children.append(Child(name, module, arguments, ended=self._ended))
        started.append(self._children[-1].pid)

    monkeypatch.setattr(LocalStack, "_run", run)
    with pytest.raises(UnavailableError, match="receiver ended with code 1: fake: no weights"):
        LocalStack()
    assert len(started) == 3
    assert all(gone(pid) for pid in started)


def test_a_service_that_dies_later_ends_the_wait(monkeypatch):
    def run(self, name, _module, arguments):
        self._children.append(Child(name, "fake_ready", arguments, ended=self._ended))

    monkeypatch.setattr(LocalStack, "_run", run)
    with LocalStack() as running:
        running.check()
        os.kill(running.pids["channel"], signal.SIGKILL)
        with pytest.raises(UnavailableError, match="channel ended with code -9"):
            running.wait()


def test_services_that_others_still_need_stop_later(monkeypatch, tmp_path):
    def run(self, name, _module, _arguments):
        self._children.append(Child(name, "fake_draining", (name, str(tmp_path / "log")), ended=self._ended))

    monkeypatch.setattr(LocalStack, "_run", run)
    LocalStack().stop()
    names = ("transmitter", "channel", "receiver")
    assert (tmp_path / "log").read_text().split("\n")[:-1] == [
        f"{n} {word}" for n in names for word in ("stops", "ended")
    ]


def test_an_address_of_elsewhere_is_refused():
    with pytest.raises(InvalidInputError, match=r"receiver: cannot listen on '192\.0\.2\.1:0'"):
        LocalStack(StackConfig(receiver="192.0.2.1:0"))


def test_free_ports_differ_and_named_ports_stay():
    assert stack_module._reserved("127.0.0.1:50099", "receiver") == "127.0.0.1:50099"
    host, _, port = stack_module._reserved("127.0.0.1:0", "receiver").rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_up_serves_send_until_ctrl_c(tmp_path):
    """The three real services, as a person runs them."""
    (tmp_path / "photo.png").write_bytes(png_bytes(photo(160, 120)))
    mmsc = [sys.executable, "-m", "client.cli"]
    where = [option for name in ("transmitter", "channel", "receiver") for option in (f"--{name}", "127.0.0.1:0")]
    command = [*mmsc, "up", "--rate", "1Mbit", *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        lines = [up.stdout.readline() for _ in range(3)]
        assert all(lines), up.stderr.read()
        services = dict(line.split() for line in lines)
        children = Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split()
        given = [option for name, address in services.items() for option in (f"--{name}", address)]
        arguments = ["send", str(tmp_path / "photo.png"), "square", "--bytes", "4000", "--json", "--no-figure", *given]
        sent = subprocess.run(
            [*mmsc, *arguments, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False
        )
        up.send_signal(signal.SIGINT)
        _, errors = up.communicate(timeout=PATIENCE_S)
    assert (sent.returncode, sent.stderr) == (0, "")
    summary = json.loads(sent.stdout)
    assert summary["outcome"] == "complete"
    assert 0 < summary["wire_bytes"] <= summary["budget_bytes"] == 4000
    assert summary["link"]["rate_bps"] == 1e6
    assert summary["masked_psnr_db"] > 15
    assert up.returncode == 0, errors
    assert len(children) == 3
    assert all(gone(pid) for pid in children)
