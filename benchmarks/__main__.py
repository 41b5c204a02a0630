"""Every benchmark that has a peer, one after the other: `python -m benchmarks`."""

import subprocess
import sys

for module in ("engines", "boot", "load", "pull", "build", "runtime"):
    print(f"== {module}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], check=True)
