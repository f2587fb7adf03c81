#!/bin/bash
# A move as an administrator scripts it, with the same disks before and after as ours: the rival of a whole migration.
# The destination's block volumes are as large as the disk can ever need, as nobody extends them.
set -euo pipefail
uri=$1 domain=$2 disk=$3 strategy=$4 capacity=$5 tag=$6
source_kind=$7 source_directory=$8 destination_kind=$9 destination_directory=${10}
shift 10
chain=("$@") # of qcow2, base first
whole=$((capacity + capacity / 512 + 16 * 1024 * 1024))

virsh() { command virsh --quiet --connect "$uri" "$@"; }

volume() { # KIND DIRECTORY NAME: makes it, and prints its path for QEMU
    if [[ $1 == file ]]; then
        : >"$2/$3"
        echo "$2/$3"
    else
        truncate --size "$whole" "$2/$3"
        losetup --find --show --direct-io=on "$2/$3"
    fi
}

drop() { # PATH
    local file=$1 device
    device=$(readlink --canonicalize "$1")
    if [[ -b $device ]]; then
        file=$(losetup --noheadings --output BACK-FILE "$device")
        losetup --detach "$device"
        [[ ! -L $1 ]] || rm "$1"
    fi
    rm "$file"
}

mirror() { # PATH OPTION...
    [[ $destination_kind == file ]] || set -- "$@" --blockdev
    virsh blockcopy "$domain" "$disk" --dest "$1" --format qcow2 --reuse-external --transient-job --wait --pivot \
        "${@:2}" >/dev/null
}

if [[ $strategy == Direct ]]; then
    made=$(volume "$destination_kind" "$destination_directory" "$tag-0")
    qemu-img create -q -f qcow2 "$made" "$capacity"
    mirror "$made"
    drop "${chain[0]}"
    exit
fi

snapshot=$(volume "$source_kind" "$source_directory" "$tag-snapshot")
qemu-img create -q -f qcow2 -u -b "${chain[-1]}" -F qcow2 "$snapshot" "$capacity"
[[ $source_kind == file ]] && kind=file || kind=block
virsh snapshot-create-as "$domain" --disk-only --no-metadata --atomic --reuse-external \
    --diskspec "$disk,snapshot=external,stype=$kind,file=$snapshot" >/dev/null
below=
for position in "${!chain[@]}"; do
    made=$(volume "$destination_kind" "$destination_directory" "$tag-$position")
    options=(--target-is-zero)
    backing=()
    if [[ -n $below ]]; then
        options=(-B "$below" -F qcow2)
        backing=(-u -b "$below" -F qcow2)
    fi
    qemu-img create -q -f qcow2 "${backing[@]}" "$made" "$capacity"
    qemu-img convert -n -U -m 16 -T none -t none -f qcow2 -O qcow2 "${options[@]}" "${chain[$position]}" "$made"
    below=$made
done
overlay=$(volume "$destination_kind" "$destination_directory" "$tag-overlay")
qemu-img create -q -f qcow2 -u -b "$below" -F qcow2 "$overlay" "$capacity"
mirror "$overlay" --shallow
virsh blockcommit "$domain" "$disk" --active --shallow --wait --pivot >/dev/null
for each in "$overlay" "$snapshot" "${chain[@]}"; do
    drop "$each"
done
