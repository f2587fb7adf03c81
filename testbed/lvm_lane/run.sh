#!/bin/bash
# Runs the tests in the lane's VM, and exits with pytest's status.
cd /project || exit
echo "The VM's system is up after $(cut -d' ' -f1 /proc/uptime) s"
mapfile -t arguments <arguments
# The terminal is a serial line, and what is not used here (hypothesis alone takes 20 s) is not loaded.
export PYTHONPATH=/project/operator:/project COLUMNS=120
exec python -m pytest -m lvm -p no:cacheprovider -p no:hypothesispytest --junitxml=/results/junit.xml "${arguments[@]}"
