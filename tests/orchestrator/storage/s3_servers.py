"""Processes that serve S3 on a free port of this host."""

import signal
import socket
import subprocess
import time

KEY_ID, SECRET = "AKIAEXAMPLEEXAMPLE", "example/secret/of/no/worth"

# One request at a time: moto checks the condition of a write and writes in two steps.
MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""


class Server:
    """A process that can be stopped and started again on the same port."""

    def __init__(self, command):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = command
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [word.replace("PORT", str(self.port)) for word in self.command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 180
        while True:
            assert self.process.poll() is None, f"{command[0]} ended with {self.process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not listen after 180 s"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
