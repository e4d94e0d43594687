"""CPU time is that of this process and of its children, whether they have ended or not."""

import subprocess
import sys
import time

from otherview.training.clock import Clock

BURN = "import time\nwhile time.process_time() < 0.6: pass\nprint('burnt', flush=True)\n"


def test_the_clock_counts_the_cpu_time_of_workers_and_no_idle_time() -> None:
    clock = Clock(batch=1)
    time.sleep(0.2)
    assert clock.cpu_seconds < 0.15
    child = subprocess.Popen([sys.executable, "-c", BURN + "time.sleep(60)"], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    alive = clock.cpu_seconds
    assert 0.5 < alive < 1.5
    child.kill()
    child.wait()
    assert alive - 0.05 < clock.cpu_seconds < alive + 0.5  # and it stays counted
    began = time.process_time()
    while time.process_time() < began + 0.3:
        pass
    assert clock.cpu_seconds > alive + 0.25
