#!/bin/bash
# lab.sh suite DEB N   installs DEB in a fresh dom0 and runs the end-to-end suite against it, with N power pulls
# lab.sh pulls DEB N   runs only those
# lab.sh uefi DEB      boots a guest by UEFI, which takes too long for the suite
# lab.sh shell DEB     installs it, gives a shell in dom0 and stops dom0 at its end
# The scenarios that match $LAB_SKIP are left out, and named.
# Called by `make lab`, `make lab-pulls`, `make lab-shell` and CI. Ends with 77,
# and a line that says why, where there is no QEMU to be had.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
usage="usage: lab.sh suite|pulls DEB N, or lab.sh uefi|shell DEB"
what=${1:-} deb=${2:-} pulls=${3:-1}
[[ $what =~ ^(suite|pulls|uefi|shell)$ ]] || die "$usage"
[[ $pulls =~ ^[1-9][0-9]*$ ]] || die "$usage"
[[ -s $deb ]] || die "there is no package $deb: run 'make package' first"
began=$(date +%s)

not_run() {
	printf 'lab: not run: %s\n' "$*"
	exit 77
}

# Installs what the lab needs here, as root; otherwise it is named.
setup() {
	local package missing=()
	for package in qemu-system-x86 qemu-utils mmdebstrap e2fsprogs kmod cpio xz-utils openssh-client iproute2 xorriso mtools grub-common; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
	done
	((${#missing[@]})) || return 0
	[[ $(id -u) = 0 ]] || not_run "run as root, or install first: apt-get install ${missing[*]}"
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get -o DPkg::Lock::Timeout=300 update -q &&
		apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "${missing[@]}"; } >/dev/null ||
		not_run "apt cannot install ${missing[*]}"
}

# The folders of machines that failed are for whoever looks why; the next run
# takes them away.
clean_up() {
	local dir
	for dir in "$vm_root"/lab-*/; do
		[[ -d $dir ]] || continue
		vm_pid "$(basename "$dir")" >/dev/null || rm -rf "$dir"
	done
}

end() {
	local status=$?
	trap '' INT TERM # a second signal must not leave the machine behind
	if ((status)) && vm_pid "$name" >/dev/null; then
		vm_ssh "$name" -- 'journalctl -q -b --no-pager -u xapid -u libvirtd -o short-monotonic | tail -n 80' >&2 || true
	fi
	"$lab_dir/stop.sh" "$name" || true
	if ((status == 0)); then rm -rf "$(vm_dir "$name")"; fi
	say "$(if ((status)); then printf 'failed'; else printf 'done'; fi) after $(($(date +%s) - began)) s in all"
}

step() {
	local start
	start=$(date +%s.%N)
	"${@:2}"
	printf 'ok   %6.1f s  %s\n' "$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')" "$1"
}

install_deb() {
	"$lab_dir/copy.sh" "$name" put "$deb" /root
	"$lab_dir/exec.sh" "$name" "apt-get install -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io /root/$(basename "$deb")" >"$(vm_dir "$name")/apt.log" 2>&1 ||
		die "apt does not install it: $(tail -n 20 "$(vm_dir "$name")/apt.log")"
	"$lab_dir/exec.sh" "$name" "systemctl is-active --quiet xapid" || die "the service is not active"
}

# The client's own contract test, which needs nothing but its binary.
xenstore_test() {
	local dir
	dir=$(vm_dir "$name")
	(cd "$lab_dir/../.." && CGO_ENABLED=0 go test -c -o "$dir/xenstore.test" ./pkg/xenctl/xenstore)
	"$lab_dir/copy.sh" "$name" put "$dir/xenstore.test" /root
	"$lab_dir/exec.sh" "$name" 'XAPID_XENSTORE=/run/xenstored/socket /root/xenstore.test -test.v -test.run "TestContract/real" | tee /root/xenstore.log | grep -q "^    --- PASS: TestContract/real"' ||
		die "it fails: $("$lab_dir/exec.sh" "$name" 'cat /root/xenstore.log')"
}

# The contract of a hypervisor, on real Xen: the whole suite for one kind of guest. The emulated processor now and then
# enters a PVH guest with Xen's own registers, a triple fault; then it is run again, and says so.
contract() {
	local kind=$1 try
	for try in 1 2; do
		if "$lab_dir/exec.sh" "$name" "cd /root && XAPID_XEN=1 ./libvirt.test -test.v -test.timeout 15m -test.run '^TestContractOnXen\$/^$kind\$' >contract-$kind.log 2>&1 &&
			grep -q '^    --- PASS: TestContractOnXen/$kind ' contract-$kind.log"; then
			say "contract, $kind: $("$lab_dir/exec.sh" "$name" "grep -c -- '--- PASS: TestContractOnXen/$kind/' /root/contract-$kind.log") parts passed, $("$lab_dir/exec.sh" "$name" "grep -c -- '--- SKIP: TestContractOnXen/$kind/' /root/contract-$kind.log") lack something"
			return 0
		fi
		"$lab_dir/exec.sh" "$name" "xl dmesg -c | grep -qi 'triple fault'" || break
		say "contract, $kind: the emulated processor lost a guest (triple fault)"
	done
	die "it fails: $("$lab_dir/exec.sh" "$name" "grep -v '^=== ' /root/contract-$kind.log | tail -n 80")"
}

contracts() {
	local dir kind
	dir=$(vm_dir "$name")
	(cd "$lab_dir/../.." && CGO_ENABLED=0 go test -c -o "$dir/libvirt.test" ./pkg/xenctl/libvirt)
	"$lab_dir/copy.sh" "$name" put "$dir/libvirt.test" /root
	"$lab_dir/exec.sh" "$name" 'systemctl stop xapid; xl dmesg -c >/dev/null'
	for kind in pv pvh; do step "the contract of a hypervisor, on Xen: $kind guests" contract "$kind"; done
	step "every step of VM.start fails and is cut, on Xen" "$lab_dir/../../scripts/saga-on-xen" "$name"
	"$lab_dir/exec.sh" "$name" 'systemctl start xapid'
}

# A machine of its own for what follows, with the service running; its name, then more options of run.sh.
machine() {
	name=$1 port=$(free_port) password=$(tr -dc a-z0-9 </dev/urandom | head -c 16 || true)
	trap end EXIT
	trap 'exit 130' INT TERM
	step "boot dom0" "$lab_dir/run.sh" "$name" --systemd --forward "$port:443" --disk 1024 --memory 2048 --dom0-cpus 1 "${@:2}"
	step "install the package, start the service" install_deb
	"$lab_dir/exec.sh" "$name" chpasswd <<<"root:$password"
}

# The scenarios against that machine's service, with more options of the suite.
scenarios() {
	(cd "$lab_dir/../.." && go build -o "$(vm_dir "$name")/suite" ./test/lab/suite)
	"$(vm_dir "$name")/suite" -url "https://127.0.0.1:$port" -exec "$lab_dir/exec.sh $name" -machine "$lab_dir/machine.sh $name" \
		-pulls "$pulls" -skip "${LAB_SKIP:-^\$}" "$@" <<<"$password"
}

guests_half() {
	machine "$1"
	step "the xenstore client on the real xenstored" xenstore_test
	scenarios -half guests
}

# It stands back behind the other, which tells how long things take, and ends before the HVM guest at the other's end:
# beside another machine that boots six times as long, since it asks dom0's QEMU for every word it reads.
dom0_half() {
	renice -n 10 "$BASHPID" >/dev/null
	machine "$1"
	contracts
	scenarios -half dom0
}

# QEMU 7.2 aborts when a guest writes CR8 while an interrupt waits, which is how OVMF ends each one: with --icount none
# waits. So much memory puts the PCI devices where OVMF looks for room for them, and they need not move (README.md).
by_uefi() {
	machine "$1" --icount --memory 6144
	scenarios -run UEFI
}

pulls_half() {
	machine "$1"
	pulls=$(((pulls + 1) / 2))
	scenarios -run "power pulls"
}

# Runs two functions side by side, each on a machine of its own, since one leaves a third of two processors idle.
# Their lines are marked.
halves() {
	local half n=0 running=() status=0
	set -m # each in a process group, which can be ended as one
	for half; do
		n=$((n + 1))
		{ ("$half" "lab-$$-$n") 2>&1 | (trap '' INT TERM; exec sed -u "s/^/$n | /"); } &
		running+=($!)
	done
	trap 'kill -TERM -- "${running[@]/#/-}" || true; wait; exit 130' INT TERM
	for half in "${running[@]}"; do wait "$half" || status=1; done
	say "both halves ended after $(($(date +%s) - began)) s in all"
	return $status
}

setup
clean_up
"$lab_dir/build-image.sh"
case $what in
suite) halves guests_half dom0_half ;;
pulls) halves pulls_half pulls_half ;;
uefi) by_uefi lab-$$ ;;
shell)
	machine lab-$$
	say "the API is at https://127.0.0.1:$port, user root, password $password; 'exit' ends the lab"
	vm_ssh "$name" -t || true
	;;
esac
