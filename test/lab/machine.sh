#!/bin/bash
# machine.sh NAME VERB: what the end-to-end suite does to a lab VM.
#   pull   its plug: QEMU ends between two instructions, nothing is flushed
#   wait   until its dom0 has powered off or rebooted, which ends QEMU
#   boot   it again, with the disks that it has
set -euo pipefail
. "$(dirname "$0")/lib.sh"
(($# == 2)) || die "usage: machine.sh NAME pull|wait|boot"
name=$1

# Waits until it runs no more, without starting programs, which would take the processor from it.
ended() {
	timeout 120 tail -s 0.1 -f --pid="$pid" /dev/null || die "lab VM '$name' has not ended within two minutes"
}

case $2 in
pull)
	pid=$(vm_pid "$name") || die "lab VM '$name' is not running"
	kill -9 "$pid"
	ended
	;;
wait) if pid=$(vm_pid "$name"); then ended; fi ;;
boot) exec "$lab_dir/run.sh" "$name" --keep ;;
*) die "machine.sh knows pull, wait and boot, not '$2'" ;;
esac
