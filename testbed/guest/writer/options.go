package main

import (
	"fmt"
	"strconv"
	"strings"
)

const prefix = "writer."

// options come from the kernel's command line, as writer.NAME=NUMBER.
type options struct {
	seed        uint64
	recordBytes uint64
	// 0: the whole disk.
	spanBytes uint64
	// 0: as fast as the disk takes them.
	recordsPerSecond uint64
	// One line on the console for so many records.
	batch uint64
	// 1: every record is the same noise and none is synced, for what the disk can take and not what it has kept.
	plain uint64
}

func parseOptions(commandLine string) (options, error) {
	parsed := options{recordBytes: 64 << 10, batch: 1}
	numbers := map[string]*uint64{
		"seed":               &parsed.seed,
		"record_bytes":       &parsed.recordBytes,
		"span_bytes":         &parsed.spanBytes,
		"records_per_second": &parsed.recordsPerSecond,
		"batch":              &parsed.batch,
		"plain":              &parsed.plain,
	}
	for _, word := range strings.Fields(commandLine) {
		option, ours := strings.CutPrefix(word, prefix)
		if !ours {
			continue
		}
		name, value, _ := strings.Cut(option, "=")
		number, known := numbers[name]
		if !known {
			return options{}, fmt.Errorf("unknown option %s", word)
		}
		parsedNumber, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return options{}, fmt.Errorf("option %s: %w", word, err)
		}
		*number = parsedNumber
	}
	if parsed.recordBytes == 0 || parsed.recordBytes%4096 != 0 || parsed.recordBytes > 64<<20 {
		return options{}, fmt.Errorf("record_bytes is %d, which is no multiple of 4096 up to 64 MiB", parsed.recordBytes)
	}
	if parsed.batch == 0 {
		return options{}, fmt.Errorf("batch is 0")
	}
	return parsed, nil
}
