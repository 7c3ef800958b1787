#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests and for trying sweeps out.
#
#   scripts/slurm_one_node.sh install          Debian's packages, if they are missing
#   scripts/slurm_one_node.sh start [FOLDER]   install and start; prints what to export
#   scripts/slurm_one_node.sh status [FOLDER]
#   scripts/slurm_one_node.sh stop [FOLDER]
#
# FOLDER (default: /tmp/convexinit-slurm) holds configuration, state and logs. Everything listens on
# loopback only and is started by hand, without systemd; it needs root. There is no accounting
# database: FOLDER/bin/sacct answers in its place from squeue, as much as submitit asks for.
# SLURM_PORT chooses other ports (default: 27817 and the one after it).
set -euo pipefail

command=${1:-}
folder=${2:-/tmp/convexinit-slurm}
folder=${folder/#\~\//$HOME/}
port=${SLURM_PORT:-27817}
daemons=(slurmd slurmctld munged)

fail() {
    echo "error: $*" >&2
    exit 1
}

is_installed() {
    for program in slurmctld slurmd munged sbatch; do
        PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || return 1
    done
}

need_root() {
    [ "$(id -u)" -eq 0 ] || fail "a Slurm of one's own needs root; run this as root"
}

install() {
    is_installed && return
    need_root
    command -v apt-get >/dev/null || fail "there is no apt-get; install slurm-wlm and munge yourself"
    echo "installing slurm-wlm and munge" >&2
    # The packages would start daemons of their own, with another configuration.
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get update && apt-get install --yes --no-install-recommends slurm-wlm munge
    } >&2 || fail "apt-get could not install slurm-wlm and munge"
}

process() { # the id of a daemon that runs, or nothing
    local id
    id=$(cat "$folder/run/$1.pid" 2>/dev/null) || return 1
    [ "$(cat "/proc/$id/comm" 2>/dev/null)" = "$1" ] && echo "$id"
}

configure() {
    local host cores memory
    host=$(hostname -s)
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # which would answer with these
    memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
    mkdir -p "$folder"/{run,log,state,spool,bin}
    [ -O "$folder" ] || fail "$folder belongs to somebody else; choose another folder"
    chmod 755 "$folder" "$folder"/{run,log,state,spool,bin}
    if [ ! -f "$folder/munge.key" ]; then
        (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    fi
    cat >"$folder/slurm.conf" <<END
ClusterName=one-node
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
# credentials that expire soon: a job that is queued again is held for as long as they live
AuthInfo=socket=$folder/run/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
EnforcePartLimits=ALL
KillWait=2
# look for jobs to start every second; on a large cluster that is too often
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000
# squeue stands in for accounting, so it has to remember
MinJobAge=86400
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE
END
    cat >"$folder/bin/sacct" <<'END'
#!/bin/sh
# Stands in for Slurm's accounting: the states of the jobs named by -j, as far as squeue knows them.
jobs=
while [ $# -gt 0 ]; do
    if [ "$1" = -j ]; then shift; jobs=$jobs,$1; fi
    shift
done
echo 'JobID|State|NodeList'
[ -z "$jobs" ] || squeue --noheader --array --states=all --jobs="${jobs#,}" --format='%i|%T|%N'
END
    chmod 755 "$folder/bin/sacct"
}

start() {
    install
    need_root
    PATH=$PATH:/usr/sbin
    if process slurmctld >/dev/null && process slurmd >/dev/null; then
        echo "Slurm runs already in $folder" >&2
    else
        configure
        for number in "$port" $((port + 1)); do
            ! (exec 3<>"/dev/tcp/127.0.0.1/$number") 2>/dev/null \
                || fail "port $number is taken, perhaps by another Slurm; stop it or set SLURM_PORT"
        done
        export SLURM_CONF=$folder/slurm.conf
        process munged >/dev/null || munged --key-file="$folder/munge.key" \
            --socket="$folder/run/munge.socket" --pid-file="$folder/run/munged.pid" \
            --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed" \
            || fail "munged did not start; see $folder/log/munged.log"
        slurmctld || fail "slurmctld did not start; see $folder/log/slurmctld.log"
        slurmd || fail "slurmd did not start; see $folder/log/slurmd.log"
    fi
    for _ in $(seq 100); do
        if SLURM_CONF=$folder/slurm.conf sinfo --noheader --format=%T 2>/dev/null | grep -Eq 'idle|mix|alloc'; then
            echo "export SLURM_CONF=$folder/slurm.conf PATH=$folder/bin:\$PATH"
            return
        fi
        sleep 0.1
    done
    fail "the node is not ready after ten seconds; see $folder/log"
}

status() {
    local running=0
    for daemon in "${daemons[@]}"; do
        if id=$(process "$daemon"); then
            echo "$daemon runs as process $id"
        else
            echo "$daemon does not run"
            running=1
        fi
    done
    return $running
}

stop() {
    if process slurmctld >/dev/null; then
        export SLURM_CONF=$folder/slurm.conf
        squeue --noheader --format=%A | sort -u | xargs --no-run-if-empty scancel
        # Jobs report their end to the daemons, so these have to live until then.
        for _ in $(seq 100); do
            [ -n "$(squeue --noheader)" ] || break
            sleep 0.1
        done
    fi
    for daemon in "${daemons[@]}"; do
        id=$(process "$daemon") || continue
        kill "$id"
        for _ in $(seq 100); do
            kill -0 "$id" 2>/dev/null || continue 2
            sleep 0.1
        done
        fail "$daemon (process $id) does not end"
    done
}

case $command in
    install | start | status | stop) "$command" ;;
    *)
        sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
