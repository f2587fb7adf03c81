package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	deviceTimeout = 10 * time.Second
	// struct input_event of linux/input.h on amd64, and the two numbers of linux/input-event-codes.h.
	inputEventBytes = 24
	eventTypeKey    = 1
	keyPower        = 116
)

func mountSystem() error {
	for _, each := range []struct{ kind, target string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}} {
		if err := os.MkdirAll(each.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(each.kind, each.target, each.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", each.target, err)
		}
	}
	return nil
}

// loadModules loads the modules of the initramfs in the order of their names, which begin with their place.
func loadModules() error {
	paths, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, path := range paths {
		image, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := unix.InitModule(image, ""); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

func waitForDevice(path string) error {
	for deadline := time.Now().Add(deviceTimeout); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return nil
		} else if time.Now().After(deadline) {
			return fmt.Errorf("no %s after %s: %w", path, deviceTimeout, err)
		}
	}
}

// watchPowerButton closes the channel it returns when the host asks for a power-off by ACPI.
func watchPowerButton() (<-chan struct{}, error) {
	pressed := make(chan struct{}, 1)
	paths, err := filepath.Glob("/dev/input/event*")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		input, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		go func() {
			event := make([]byte, inputEventBytes)
			for {
				if _, err := input.Read(event); err != nil {
					return
				}
				kind, code := binary.LittleEndian.Uint16(event[16:]), binary.LittleEndian.Uint16(event[18:])
				if kind == eventTypeKey && code == keyPower {
					select {
					case pressed <- struct{}{}:
					default:
					}
				}
			}
		}()
	}
	return pressed, nil
}

func powerOff() {
	// Process 1 must not return: the kernel would panic.
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Printf("failed power off: %v\n", err)
	select {}
}
