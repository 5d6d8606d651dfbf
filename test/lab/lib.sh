# Shared by every lab script: where things live and how a failure is told.
# Sourced, never run.

lab_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XAPID_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/xapid-lab}
image_dir=$cache/image # what build-image.sh makes
vm_root=$cache/vm      # one folder for each running lab dom0

die() {
	printf 'lab: %s\n' "$*" >&2
	exit 1
}

say() { printf 'lab: %s\n' "$*" >&2; }

need() {
	local tool
	for tool in "$@"; do
		command -v "$tool" >/dev/null || die "'$tool' is missing: install the Debian packages named in README.md"
	done
}

# A VM's name becomes a folder and part of a process name.
vm_dir() {
	[[ ${1:-} =~ ^[a-z0-9][a-z0-9-]{0,30}$ ]] || die "a lab VM's name is lower-case letters, digits and dashes, not '${1:-}'"
	printf '%s/%s' "$vm_root" "$1"
}

# Prints the process id of a running VM; fails when it is not running.
vm_pid() {
	local dir pid
	dir=$(vm_dir "$1")
	pid=$(cat "$dir/pid" 2>/dev/null) || return 1
	# The id may have been handed to another process since: ask what it runs.
	tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "guest=$1,process=lab-$1" || return 1
	printf '%s\n' "$pid"
}

# ssh into a VM. One master connection is shared, since a key exchange under
# emulation costs most of a second.
vm_ssh() {
	local dir name=$1
	dir=$(vm_dir "$name")
	shift
	vm_pid "$name" >/dev/null || die "lab VM '$name' is not running (start it with run.sh $name)"
	ssh -F "$dir/ssh_config" "$name" "$@"
}

# A port nobody listens on; QEMU refuses to start should someone be quicker.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 20000))
		[[ -z $(ss -Hltn "sport = :$port") ]] && break
	done
	printf '%s\n' "$port"
}
