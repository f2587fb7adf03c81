#!/bin/bash
# Runs the tests in the lane's VM, and exits with pytest's status.
cd /project || exit
echo "The VM's system is up after $(cut -d' ' -f1 /proc/uptime) s"
# What Debian's libvirt expects of a whole system, and asks for even where it is not used.
mkdir -p /etc/libvirt /var/{lib,cache,log}/libvirt
groupadd --system libvirt-qemu
useradd --system --gid kvm --groups libvirt-qemu libvirt-qemu
mapfile -t arguments <arguments
# The terminal is a serial line. The tests wait eight times as long as elsewhere. hypothesis, which none of them uses, would
# alone take 20 s to load.
export PYTHONPATH=/project/operator:/project COLUMNS=120 DISKMIGRATION_TEST_PATIENCE=8
# Interrupted, it still ends what it runs and hands out what it has.
exec timeout --signal INT --kill-after 60 "$(<seconds)" python -m pytest -m "lvm and not nightly" --junitxml=/results/junit.xml \
    -p no:cacheprovider -p no:hypothesispytest --timeout 900 --verbose --durations 30 --color no "${arguments[@]}"
