"""CPU time is that of this process and of its children, whether they have ended or not."""

import subprocess
import sys

ALONE = """
import subprocess, sys, time
from otherview.training.metrics_log import Throughput

burn = "import time\\nwhile time.process_time() < 0.6: pass\\nprint('burnt', flush=True)\\ntime.sleep(60)\\n"
clock = Throughput(batch=1)
time.sleep(0.2)
assert clock.cpu_seconds < 0.15, clock.cpu_seconds
child = subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE)
child.stdout.readline()
alive = clock.cpu_seconds
assert 0.5 < alive < 1.5, alive
child.kill()
child.wait()
assert alive - 0.05 < clock.cpu_seconds < alive + 0.5, (alive, clock.cpu_seconds)  # and it stays counted
began = time.process_time()
while time.process_time() < began + 0.3:
    pass
assert clock.cpu_seconds > alive + 0.25, (alive, clock.cpu_seconds)
"""


def test_the_clock_counts_the_cpu_time_of_workers_and_no_idle_time() -> None:
    """In a process of its own: a test runner has children of other tests."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
