#!/bin/bash
# Installs the Debian packages of the testbed that are missing; says nothing when there are none.
set -euo pipefail

packages=(
    # libvirt and QEMU, and what libvirt-python is built from
    libvirt-daemon-system libvirt-clients libvirt-dev qemu-system-x86 qemu-utils gcc pkg-config
    # the guest's initramfs
    cpio
    # the images: their base, their builds, the static pause program
    buildah debootstrap libc6-dev
    # the cluster's nodes: containers, pods' networks, Services
    containerd runc containernetworking-plugins iptables iproute2
    # the control plane's key, the namespaces, the file systems
    openssl util-linux mount e2fsprogs btrfs-progs procps ca-certificates
    # file systems that let root do less, as NFS exports do
    libfuse3-dev
)
# A Python from elsewhere brings both by itself.
if [[ "$(readlink -f "$(command -v "${PYTHON:-python3}" || true)")" == /usr/bin/* ]]; then
    packages+=(python3-venv python3-dev)
fi

missing=()
for package in "${packages[@]}"; do
    if [[ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
        missing+=("$package")
    fi
done
if [[ ${#missing[@]} -eq 0 ]]; then
    exit 0
fi

if [[ $EUID -ne 0 ]]; then
    echo "Missing packages: ${missing[*]}. Install them, or run this as root." >&2
    exit 1
fi

# The system's own libvirtd and its like must not start: the testbed runs its own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

log=$(mktemp)
echo "Installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "apt-get could not install: ${missing[*]}" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
