"""A real Slurm of two nodes on this machine: controller, two node daemons, munge."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time

from jobs.bench.chaos_processes import free_port

NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")


def missing():
    """What of Slurm is not here, in words; empty if all is."""
    absent = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "needs root, to start Slurm's daemons"


PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Slurm:
    """Runs while its block does."""

    def __init__(self, folder):
        self._folder = folder
        host = socket.gethostname().partition(".")[0]
        control, first, second = (free_port() for _ in range(3))
        self.config = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.config), "PATH": PATH}
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={control}",
            "SlurmUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={folder}/munge.socket",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool.%n",
            f"SlurmdPidFile={folder}/slurmd.%n.pid",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmctldLogFile={folder}/slurmctld.log",
            f"SlurmdLogFile={folder}/slurmd.%n.log",
            "ReturnToService=2",
            "KillWait=20",
            "MpiDefault=none",
            "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0",
        ]
        for name, port in (("n1", first), ("n2", second)):
            lines.append(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 "
                "State=UNKNOWN"
            )
        lines.append("PartitionName=all Nodes=n1,n2 Default=YES State=UP MaxTime=INFINITE")
        self.config.write_text("\n".join(lines) + "\n")
        self._processes = []

    def __enter__(self):
        for name in ("state", "spool.n1", "spool.n2"):
            (self._folder / name).mkdir()
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        try:
            self._start(
                "munged", "--foreground", "--force", f"--key-file={key}",
                f"--socket={self._folder}/munge.socket", f"--pid-file={self._folder}/munge.pid",
                f"--log-file={self._folder}/munge.log", f"--seed-file={self._folder}/munge.seed",
            )  # fmt: skip
            time.sleep(1)
            self._start("slurmctld", "-D", "-f", str(self.config))
            for node in ("n1", "n2"):
                self._start("slurmd", "-D", "-f", str(self.config), "-N", node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.run("scancel", "--full", "--user=root", check=False)
        time.sleep(2)
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, *command, check=True, **more):
        """What a command of Slurm's says."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment, **more}, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def job(self, number):
        """What is known of a job, by key."""
        text = self.run("scontrol", "show", "job", number, "--oneliner")
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def _start(self, *command):
        log = (self._folder / f"{command[0]}.out").open("ab")
        with log:
            process = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
