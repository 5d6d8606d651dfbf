#!/bin/bash
# run.sh NAME [option...]: boots a lab dom0 and returns when it is ready.
# run.sh NAME --keep: boots NAME again with the disks and options that it had,
#   after its dom0 rebooted or powered off (either ends QEMU) or its plug was
#   pulled (machine.sh).
#   --memory MiB   the VM's memory (default 1536)
#   --dom0 MiB     dom0's share of it (default 768)
#   --cpus N       (default 2)
#   --dom0-cpus N  how many of them dom0 has, each pinned (default: all, not
#                  pinned). One is best for machines that run side by side:
#                  dom0's processors wait for each other, and so do QEMU's
#                  threads when there are more of them than processors here.
#   --disk MiB     adds an empty disk: /dev/vdb, then /dev/vdc ... (repeatable)
#   --net ADDR/LEN adds eth1, on the network all lab VMs share, with an address
#   --forward HOST:GUEST  makes the VM's TCP port GUEST 127.0.0.1:HOST (repeatable)
#   --icount       its time follows its instructions, one processor executes
#                  them, and nothing in it waits for what is slow outside. It
#                  runs at half the speed; see README.md on UEFI.
#   --linux        boots plain Linux without Xen
#   --systemd      starts systemd instead of the lab's quick init
#   --timeout S    how long to wait for it (default 300)
# Its disk is an overlay, thrown away at the next run.sh NAME without --keep.
# What the dom0 has flushed is in this machine's page cache, which QEMU's end
# doesn't touch; what it has not flushed may be lost, as with any disk.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

name=${1:-}
dir=$(vm_dir "$name")
shift
keep=
if [[ ${1:-} = --keep ]]; then
	(($# == 1)) || die "run.sh NAME --keep takes no other option: it has those of the first boot"
	[[ -e $dir/options ]] || die "there is no lab VM '$name' to boot again"
	keep=yes
	mapfile -t options <"$dir/options"
	set -- "${options[@]}"
fi
options=("$@")
memory=1536 dom0=768 cpus=2 disks=() net= forwards=() xen=1 init= timeout=300 dom0_cpus= time=(-accel tcg,thread=multi,tb-size=384)
while (($#)); do
	case $1 in
	--memory) memory=$2; shift ;;
	--dom0) dom0=$2; shift ;;
	--cpus) cpus=$2; shift ;;
	--dom0-cpus) dom0_cpus=$2; shift ;;
	--disk) disks+=("$2"); shift ;;
	--net) net=$2; shift ;;
	--forward) forwards+=("$2"); shift ;;
	--timeout) timeout=$2; shift ;;
	--icount) time=(-accel tcg,thread=single,tb-size=384 -icount shift=1,sleep=off) ;;
	--linux) xen= ;;
	--systemd) init=/sbin/init ;;
	*) die "run.sh does not know '$1'" ;;
	esac
	shift
done

need qemu-system-x86_64 qemu-img ssh ss
[[ -s $image_dir/stamp ]] || die "there is no image: run build-image.sh first"
! vm_pid "$name" >/dev/null || die "lab VM '$name' is running already (stop.sh $name ends it)"
if [[ $keep ]]; then
	cmp -s "$image_dir/stamp" "$dir/stamp" || die "the image is no longer that of lab VM '$name'"
	cat "$dir/console.log" >>"$dir/console-before.log"
	: >"$dir/console.log"
	# The shared ssh connection is to the boot before.
	[[ ! -S $dir/ssh ]] || ssh -F "$dir/ssh_config" -O exit "$name" 2>/dev/null || true
else
	rm -rf "$dir"
	mkdir -p "$dir"
	printf '%s\n' "${options[@]}" | sed '/^$/d' >"$dir/options"
	cp "$image_dir/stamp" "$dir/stamp"
	free_port >"$dir/port"
	qemu-img create -q -f qcow2 -F qcow2 -b "$image_dir/root.qcow2" "$dir/root.qcow2"
fi
args=(-drive "file=$dir/root.qcow2,if=none,id=root,cache=unsafe,discard=unmap" -device virtio-blk-pci,drive=root)
n=0
for size in "${disks[@]}"; do
	n=$((n + 1))
	[[ $keep ]] || truncate -s "${size}M" "$dir/disk$n.img"
	args+=(-drive "file=$dir/disk$n.img,format=raw,if=none,id=disk$n,cache=unsafe,discard=unmap"
		-device "virtio-blk-pci,drive=disk$n,serial=lab-disk-$n")
done

ssh_port=$(cat "$dir/port")
forward="hostfwd=tcp:127.0.0.1:$ssh_port-:22"
for pair in "${forwards[@]}"; do
	forward+=",hostfwd=tcp:127.0.0.1:${pair%%:*}-:${pair#*:}"
done
args+=(-netdev "user,id=user,restrict=on,$forward" -device virtio-net-pci,netdev=user,romfile=)
if [[ $net ]]; then
	# The VMs find each other by multicast, which never leaves this machine.
	mac=$(printf '%s' "$name" | sha256sum | sed 's/^\(..\)\(..\)\(..\).*/52:54:00:\1:\2:\3/')
	args+=(-netdev socket,id=lab,mcast=239.77.0.1:17700,localaddr=127.0.0.1
		-device "virtio-net-pci,netdev=lab,mac=$mac,romfile=")
fi

words="lab.name=$name lab.init=${init:-/lab/init} lab.ip=$net quiet panic=-1 mitigations=off net.ifnames=0"
if [[ $xen ]]; then
	args+=(-kernel "$image_dir/xen"
		-append "com1=115200,8n1 console=com1 dom0_mem=${dom0}M,max:${dom0}M${dom0_cpus:+ dom0_max_vcpus=$dom0_cpus dom0_vcpus_pin} bootscrub=0 spec-ctrl=no ucode=no"
		-initrd "$image_dir/vmlinux console=hvc0 ${words//,/,,},$image_dir/initrd")
else
	args+=(-kernel "$image_dir/vmlinux" -initrd "$image_dir/initrd" -append "console=ttyS0 $words")
fi

cpu=${LAB_CPU:-qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+pdpe1gb,+svm,+npt}
# Emulation, not KVM: Xen wants a CPU of its own. SMAP is off because QEMU
# 7.2 takes a far return of a PV kernel for a supervisor's access; RDTSCP
# because it reports one to Xen as an RDTSC, and Xen then ends the PVH guest;
# ERMS and FSRM because emulated 'rep movsb' goes byte by byte.
start=$(date +%s.%N)
qemu-system-x86_64 -name "guest=$name,process=lab-$name" -machine q35,vmport=off \
	"${time[@]}" -cpu "$cpu" -smp "$cpus" -m "$memory" \
	-nodefaults -display none -no-reboot -device virtio-rng-pci -rtc base=utc \
	-serial "file:$dir/console.log" -monitor "unix:$dir/monitor,server=on,wait=off" \
	-pidfile "$dir/pid" -daemonize "${args[@]}" 2>"$dir/qemu.log" ||
	die "QEMU did not start: $(cat "$dir/qemu.log")"

cat >"$dir/ssh_config" <<CONFIG
Host $name
	HostName 127.0.0.1
	Port $ssh_port
	User root
	IdentityFile $image_dir/id_ed25519
	IdentitiesOnly yes
	StrictHostKeyChecking no
	UserKnownHostsFile /dev/null
	LogLevel ERROR
	ConnectTimeout 30
	ControlMaster auto
	ControlPath $dir/ssh
	ControlPersist yes
	Ciphers chacha20-poly1305@openssh.com
CONFIG

# Waited for without polling: starting programs takes the processor from QEMU.
pid=$(cat "$dir/pid")
exec {console}< <(exec timeout "$timeout" tail -n +1 -f --pid="$pid" "$dir/console.log")
reader=$!
if ! grep -qa -m 1 'LAB .* READY' <&"$console"; then
	vm_pid "$name" >/dev/null || die "lab VM '$name' died while booting: see $dir/console.log"
	die "lab VM '$name' is not ready after $timeout s: see $dir/console.log (it is still running)"
fi
kill "$reader" 2>/dev/null || true
vm_ssh "$name" true || die "lab VM '$name' is up but does not answer ssh"
say "$name is ready after $(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }') s"
