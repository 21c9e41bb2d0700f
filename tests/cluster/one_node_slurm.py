"""A real Slurm of one node, on loopback, with its database and its munge; all that it writes is in one folder.

By hand: `python tests/cluster/one_node_slurm.py NEW_FOLDER` runs a shell in it, and takes it down when that ends.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ["munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "sacct"]
PACKAGES = "slurm-wlm slurmdbd munge mariadb-server"
GPUS = 2
# The node says that it has these, whatever the machine has, so that a job that is stopped keeps no other waiting.
CPUS, MEMORY_MB = 4, 32000

SLURM_CONF = """\
ClusterName=spunge
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
SlurmdPort={ports[slurmd]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that makes way for another (requeue) waits until its credential is out of date, two minutes by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
# Snakemake asks the controller what became of a job, so it must remember those that ended.
MinJobAge=600
# After SIGTERM a job has these seconds to save its state.
KillWait=10
# Without cgroups, memory is watched and a job killed once it has been seen over what it asked for.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[slurmdbd]}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} MaxTime=2-00:00:00 State=UP Default=YES
PartitionName=gpu Nodes={host} MaxTime=2-00:00:00 State=UP
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[slurmdbd]}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[mariadb]}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
"""

# Slurm wants device files that have a number each; these are there everywhere, and no job opens them.
GRES_CONF = "Name=gpu Flags=nvidia_gpu_env File=/dev/null\nName=gpu Flags=nvidia_gpu_env File=/dev/zero\n"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n"

# snakemake-executor-plugin-slurm-jobstep 0.6.1 takes SLURM_CONF away from the srun that it starts.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def missing():
    """What this machine lacks to run a Slurm of its own, in a few words, or nothing."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root here"
    absent = [program for program in PROGRAMS if not find(program)]
    return f"{', '.join(absent)} not found (Debian: apt-get install {PACKAGES})" if absent else ""


def find(program):
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


class Slurm:
    """The cluster, up inside a `with`; `environment` is what its commands and the workflow need to find it."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        path = f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}
        self.processes = []

    def __enter__(self):
        try:
            self.write_configuration()
            self.start_munge()
            self.start_mariadb()
            self.start("slurmdbd", "-D")
            self.wait_for("sacctmgr", "--noheader", "show", "cluster")
            self.command("sacctmgr", "--immediate", "add", "cluster", "spunge")
            self.command("sacctmgr", "--immediate", "add", "account", "lab")
            self.command("sacctmgr", "--immediate", "add", "user", "root", "account=lab")
            self.start("slurmctld", "-D")
            self.start("slurmd", "-D")
            self.wait_for("sinfo", "--noheader", "--states=idle", "--format=%T", output="idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error):
        self.stop()

    def write_configuration(self):
        for name in ("munge", "mariadb", "slurmctld", "slurmd", "bin"):
            (self.folder / name).mkdir(parents=True)
        self.password = secrets.token_hex(16)
        self.ports = dict(zip(("slurmctld", "slurmd", "slurmdbd", "mariadb"), free_ports(4), strict=True))
        values = {"folder": self.folder, "host": socket.gethostname().partition(".")[0], "ports": self.ports}
        values |= {"cpus": CPUS, "memory": MEMORY_MB, "gpus": GPUS, "password": self.password}
        files = {"slurm": SLURM_CONF, "slurmdbd": SLURMDBD_CONF, "gres": GRES_CONF, "cgroup": CGROUP_CONF}
        for name, text in files.items():
            path = self.folder / f"{name}.conf"
            path.write_text(text.format(**values))
            path.chmod(0o600)  # slurmdbd refuses a file with a password that others may read

        srun = self.folder / "bin" / "srun"
        srun.write_text(SRUN.format(folder=self.folder, srun=find("srun")))
        srun.chmod(0o755)

    def start_munge(self):
        folder = self.folder / "munge"
        folder.chmod(0o755)  # munged refuses a socket that others can't reach
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
        self.start("munged", "--foreground", "--force", f"--socket={folder / 'socket'}", *files)
        self.wait_for("munge", f"--socket={folder / 'socket'}", "--no-input")

    def start_mariadb(self):
        folder = self.folder / "mariadb"
        data, sock = folder / "data", folder / "socket"
        self.command("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db",
            "--auth-root-authentication-method=normal")  # fmt: skip
        self.start("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={sock}",
            f"--pid-file={folder / 'pid'}", "--bind-address=127.0.0.1", f"--port={self.ports['mariadb']}",
            "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0")  # fmt: skip
        account = "slurm@'127.0.0.1'"
        ask = f"create user {account} identified by '{self.password}'; grant all on slurm_acct.* to {account}"
        self.wait_for("mariadb", "--no-defaults", f"--socket={sock}", "--execute=select 1")
        self.command("mariadb", "--no-defaults", f"--socket={sock}", f"--execute={ask}")

    def start(self, program, *arguments):
        """Start a daemon in the foreground, so that it is a child of ours and ends with us."""
        with open(self.folder / f"{program}.out", "w") as out:
            command = [find(program), *arguments]
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, start_new_session=True
            )
        self.processes.append(started)

    def run(self, *command):
        command = [find(command[0]) or command[0], *map(str, command[1:])]
        return subprocess.run(
            command, env=self.environment, text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
        )

    def command(self, *command):
        """Run one of Slurm's (or MariaDB's) commands and return what it says; a failure is an error that shows it."""
        done = self.run(*command)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def wait_for(self, *command, output="", seconds=20):
        """Wait until a command succeeds and says `output`."""
        end = time.monotonic() + seconds
        while True:
            done = self.run(*command)
            if done.returncode == 0 and output in done.stdout:
                return
            ended = [process.args[0] for process in self.processes if process.poll() is not None]
            if ended or time.monotonic() > end:
                raise RuntimeError(f"no Slurm: ended {ended}; {command[0]}: {done.stdout}{done.stderr}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self):
        tails = {path.name: path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.[lo]*"))}
        return "\n".join(f"--- {name}\n{text}" for name, text in tails.items())

    def records(self):
        """What Slurm's accounting says of every job so far, oldest first: a dict of sacct's fields for each attempt."""
        fields = [
            "JobIDRaw",
            "State",
            "Comment",
            "Partition",
            "Account",
            "ReqTRES",
            "AllocTRES",
            "TimelimitRaw",
            "ReqMem",
        ]
        asked = ["--allocations", "--duplicates", "--starttime=now-1day", "--noheader", "--parsable2", "--delimiter=\t"]
        rows = self.command("sacct", *asked, f"--format={','.join(fields)}").splitlines()
        return [dict(zip(fields, row.split("\t"), strict=True)) for row in rows]

    def stop(self):
        """End all jobs and then the daemons, last started first."""
        self.run("scancel", "--user=root")
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def free_ports(number):
    """Return ports that nobody listens on, each another."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    if missing():
        sys.exit(f"error: {missing()}")
    with Slurm(sys.argv[1]) as slurm:
        print(f"Slurm is up until this shell ends; for another: export SLURM_CONF={slurm.folder}/slurm.conf")
        subprocess.run([os.environ.get("SHELL", "/bin/sh")], env=slurm.environment)
