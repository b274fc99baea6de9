"""A real SLURM of one node for tests: Debian's packages unpacked, not installed, and started without systemd or munge."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = ("slurm-wlm-basic-plugins", "slurm-client", "slurmctld", "slurmd", "libmunge2", "libhwloc15", "liblua5.1-0")
CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
SlurmctldPort={port}
SlurmdPort={node_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(Exception):
    """SLURM cannot be had here; the text says why."""


class Slurm:
    """One controller and one node, all files below a folder, until `stop`."""

    def __init__(self, folder: Path):
        self.prefix, self.state = folder / "prefix", folder / "state"
        self._daemons: list[subprocess.Popen] = []
        self._unpack(folder / "packages")
        libraries = self.prefix / "usr/lib/x86_64-linux-gnu"
        self.environment = {
            **os.environ, "SLURM_CONF": str(self.state / "slurm.conf"),
            "LD_LIBRARY_PATH": f"{libraries}:{libraries}/slurm-wlm",
            "PATH": f"{self.prefix}/usr/bin:{self.prefix}/usr/sbin:{os.environ['PATH']}",
        }  # fmt: skip

    def _unpack(self, folder: Path) -> None:
        if os.name != "posix" or os.getuid() != 0:
            raise Unavailable("SLURM's daemons are started by root alone")
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Unavailable("there is no apt-get to fetch Debian's packages of SLURM")
        folder.mkdir(parents=True)
        fetched = subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=folder, capture_output=True, text=True, timeout=180
        )
        archives = sorted(folder.glob("*.deb"))
        if fetched.returncode or len(archives) < len(PACKAGES):
            raise Unavailable(f"apt-get download: {(fetched.stderr.strip().splitlines() or ['nothing came'])[-1]}")
        for archive in archives:
            subprocess.run(["dpkg-deb", "-x", archive, self.prefix], check=True)

    def start(self) -> None:
        """Start both daemons, and wait for the node to be idle."""
        for name in ("state", "spool"):
            (self.state / name).mkdir(parents=True)
        port, node_port = _free_ports(2)
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0], state=self.state, port=port, node_port=node_port,
            plugins=self.prefix / "usr/lib/x86_64-linux-gnu/slurm-wlm",
        )  # fmt: skip
        (self.state / "slurm.conf").write_text(text)
        for name, more in (("slurmctld", ()), ("slurmd", ("-d", self._daemon("slurmstepd")))):
            with (self.state / f"{name}.out").open("wb") as out:
                self._daemons.append(
                    subprocess.Popen([self._daemon(name), "-D", *more], env=self.environment, stdout=out, stderr=out)
                )
        deadline = time.monotonic() + 60
        while "idle" not in self.call("sinfo", "-h", "-o", "%T", check=False):
            if time.monotonic() > deadline:
                logs = "".join(p.read_text(errors="replace")[-1500:] for p in self.state.glob("*.log"))
                raise Unavailable(f"SLURM does not come up: {logs}")
            time.sleep(0.5)

    def _daemon(self, name: str) -> Path:
        found = [path for path in (self.prefix / "usr/sbin").glob(f"{name}*") if os.access(path, os.X_OK)]
        if not found:
            raise Unavailable(f"no {name} in the packages")
        return found[0]

    def call(self, *command: str, check: bool = True) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not (check and done.returncode), f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """Jobs in the queue, and their state."""
        return dict(line.split() for line in self.call("squeue", "-h", "-o", "%i %T").splitlines())

    def stop(self) -> None:
        """End all jobs, then both daemons."""
        self.call("scancel", "--user", "root", check=False)
        deadline = time.monotonic() + 20
        while self.call("squeue", "-h", check=False) and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
