#!/usr/bin/env bash
# Ray 2.60.0: a worker process ends by itself when the raylet of its node is dead, but a zombie counts as
# alive. If the parent of a killed raylet does not reap it (a container whose first process reaps nothing, a
# program that starts the node itself), the node's actors work on. The cluster declares the node dead all the
# same and starts the actor on another node: an actor that must exist once runs twice. When the zombie is
# reaped, the old copy ends.
#
# Output seen:
#   raylet killed, not reaped; the actor was started again: True
#   both copies work 5 s later: True
#   raylet reaped: the old copy ends: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
cat > "$folder/try.py" <<'PYTHON'
import os, sys, time
from pathlib import Path

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_TMPDIR=sys.argv[1])
import ray
from ray.cluster_utils import Cluster

beats = Path(sys.argv[1]) / "beats"
shown, sys.stdout = sys.stdout, open(os.devnull, "w")  # Ray prints the log of a killed raylet there.


@ray.remote(num_cpus=1, max_restarts=1)
class Once:
    """Write its process id to a file ten times a second."""

    def __init__(self, path):
        import threading

        def beat():
            while True:
                with open(path, "a") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(0.1)

        threading.Thread(target=beat, daemon=True).start()

    def pid(self):
        return os.getpid()


def at_work():
    """Return the ids of the processes that write during two seconds."""
    beats.write_text("")
    time.sleep(2)
    return {int(line) for line in beats.read_text().split()}


def within(seconds, holds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
    return False


def pid_now():
    try:
        return ray.get(actor.pid.remote(), timeout=2)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        time.sleep(0.5)
        return old


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
doomed = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
actor = Once.remote(str(beats))
old = ray.get(actor.pid.remote(), timeout=60)
cluster.add_node(num_cpus=1)
raylet = doomed.all_processes["raylet"][0].process
os.kill(raylet.pid, 9)  # Popen reaps at wait() or poll() only, so this leaves a zombie.
restarted = within(60, lambda: pid_now() != old)
new = pid_now()
time.sleep(5)
both = at_work() == {old, new}
raylet.wait()
ended = within(20, lambda: at_work() == {new})
ray.shutdown()
cluster.shutdown()
sys.stdout = shown
print(f"raylet killed, not reaped; the actor was started again: {restarted}")
print(f"both copies work 5 s later: {both}")
print(f"raylet reaped: the old copy ends: {ended}")
sys.exit(0 if restarted and both and ended else 1)
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder" 2> "$folder/stderr" || { tail -5 "$folder/stderr" >&2; exit 1; }
