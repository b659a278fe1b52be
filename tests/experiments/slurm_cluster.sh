#!/usr/bin/env bash
# slurm_cluster.sh COMMAND...: run COMMAND beside a SLURM cluster that consists of this machine and ends with COMMAND.
# Needs root and Debian's slurm-wlm and munge, but no systemd. The node claims 16 CPUs, 64 GB and two GPUs, so that jobs
# of profiles/slurm fit on any machine; nothing uses the GPUs. $CLUSTER is the folder of its files, and `slurmd` starts
# the node's daemon again after a kill. SLURM appends a line for each completed job to the file $JOBS, if it is set.
set -euo pipefail
if [[ -z ${CLUSTER-} ]]; then
  CLUSTER=$(mktemp -d /tmp/slurm.XXXXXX)
  trap 'rm -rf "$CLUSTER"' EXIT
  # In a PID namespace, all daemons and jobs end with this script. In a mount namespace, the configuration can be in
  # /etc/slurm, where programs find it without SLURM_CONF, which job steps of Snakemake do not get.
  CLUSTER=$CLUSTER unshare --mount --pid --fork --kill-child --mount-proc bash "$0" "$@"
  exit
fi

# await COMMAND...: repeat COMMAND until it succeeds, at most 30 seconds.
await() {
  for _ in {1..300}; do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  tail -n 20 "$CLUSTER"/*.log >&2
  echo "error: the cluster does not start: $*" >&2
  exit 1
}

is_idle() { [[ $(sinfo --noheader --format=%T) == idle ]]; }

export CLUSTER
mkdir -p "$CLUSTER"/{state,spool}
chmod 755 "$CLUSTER"
mkdir -p /etc/slurm
mount --bind "$CLUSTER" /etc/slurm
node=$(hostname -s)
read -r controller_port node_port < <(python3 -c 'import socket
servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(server.getsockname()[1] for server in servers))')
(umask 077 && head -c 1024 /dev/urandom >"$CLUSTER/munge.key")
for gpu in 0 1; do
  mknod "$CLUSTER/gpu$gpu" c 1 3 # the numbers of /dev/null
  echo "Name=gpu File=$CLUSTER/gpu$gpu"
done >"$CLUSTER/gres.conf"
cat >"$CLUSTER/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmctldPort=$controller_port
SlurmdPort=$node_port
AuthType=auth/munge
AuthInfo=socket=$CLUSTER/munge.socket
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd.pid
SlurmctldLogFile=$CLUSTER/slurmctld.log
SlurmdLogFile=$CLUSTER/slurmd.log
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc=${JOBS:-$CLUSTER/jobs}
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 Gres=gpu:2
PartitionName=batch Nodes=ALL Default=YES State=UP
CONF
munged --force --key-file="$CLUSTER/munge.key" --socket="$CLUSTER/munge.socket" \
  --pid-file="$CLUSTER/munged.pid" --seed-file="$CLUSTER/munge.seed" --log-file="$CLUSTER/munged.log"
slurmctld
await scontrol ping
slurmd
await is_idle
"$@"
