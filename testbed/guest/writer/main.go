// The only program of the test guest: process 1 of an initramfs, it writes numbered, checksummed records to /dev/vda
// without pause, and prints on the console what the disk has acknowledged.
//
// Lines on the console, one event each:
//
//	writing SLOTS BYTES        before the first record
//	ack SEQUENCE               this record and all before it were acknowledged by the disk
//	stopped SEQUENCE           asked to power off; the last acknowledged record
//	failed REASON              nothing is written any more
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	disk          = "/dev/vda"
	mostMadeUpFor = 20 * time.Millisecond
)

func main() {
	if err := run(); err != nil {
		fmt.Printf("failed %v\n", err)
	}
	powerOff()
}

func run() error {
	if err := mountSystem(); err != nil {
		return err
	}
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	chosen, err := parseOptions(string(commandLine))
	if err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := waitForDevice(disk); err != nil {
		return err
	}
	stop, err := watchPowerButton()
	if err != nil {
		return err
	}
	return write(chosen, stop)
}

func write(chosen options, stop <-chan struct{}) error {
	// O_DSYNC: a record is acknowledged when it would survive the loss of power.
	flags := os.O_WRONLY | unix.O_DIRECT | unix.O_DSYNC
	if chosen.plain == 1 {
		flags &^= unix.O_DSYNC
	}
	device, err := os.OpenFile(disk, flags, 0)
	if err != nil {
		return err
	}
	slots, err := countSlots(device, chosen)
	if err != nil {
		return err
	}
	// Mapped memory begins at a page, as O_DIRECT wants it.
	record, err := unix.Mmap(-1, 0, int(chosen.recordBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map a record: %w", err)
	}
	fillNoise(record, chosen.seed)
	fmt.Printf("writing %d %d\n", slots, slots*chosen.recordBytes)
	next := time.Now()
	for sequence := uint64(0); ; sequence++ {
		select {
		case <-stop:
			fmt.Printf("stopped %d\n", int64(sequence)-1)
			return nil
		default:
		}
		slot := sequence % slots
		if chosen.plain == 0 {
			stamp(record, chosen.seed, sequence, slot)
		}
		if _, err := device.WriteAt(record, int64(slot*chosen.recordBytes)); err != nil {
			return fmt.Errorf("record %d: %w", sequence, err)
		}
		if (sequence+1)%chosen.batch == 0 {
			fmt.Printf("ack %d\n", sequence)
		}
		if chosen.recordsPerSecond > 0 {
			next = next.Add(time.Second / time.Duration(chosen.recordsPerSecond))
			// A late timer is made up for, as the rate would never be reached; what was missed in a pause is not.
			if earliest := time.Now().Add(-mostMadeUpFor); next.Before(earliest) {
				next = earliest
			}
			time.Sleep(time.Until(next))
		}
	}
}

func countSlots(device *os.File, chosen options) (uint64, error) {
	end, err := device.Seek(0, 2)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", disk, err)
	}
	span := chosen.spanBytes
	if span == 0 {
		span = uint64(end)
	}
	if span > uint64(end) {
		return 0, fmt.Errorf("span_bytes is %d, but %s has %d", span, disk, end)
	}
	if span < chosen.recordBytes {
		return 0, fmt.Errorf("a record of %d bytes does not fit into %d", chosen.recordBytes, span)
	}
	return span / chosen.recordBytes, nil
}
