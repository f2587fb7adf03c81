package main

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// The layout of a record is told in testbed/guest/records.py, which reads it.
const (
	sectorBytes    = 512
	headerBytes    = 40
	checksumOffset = 36
)

var magic = [8]byte{'D', 'M', 'R', 'E', 'C', 'O', 'R', 'D'}

// fillNoise makes every byte depend on the seed, so that no record compresses or deduplicates with another run's.
func fillNoise(record []byte, seed uint64) {
	var block [16]byte
	binary.LittleEndian.PutUint64(block[:8], seed)
	for offset := 0; offset < len(record); offset += sha256.Size {
		binary.LittleEndian.PutUint64(block[8:], uint64(offset))
		digest := sha256.Sum256(block[:])
		copy(record[offset:], digest[:])
	}
}

// stamp turns the noise, or an earlier record, into the record of a sequence number.
// Each sector carries the number, so that a torn write shows which of its sectors arrived.
func stamp(record []byte, seed, sequence, slot uint64) {
	for offset := sectorBytes; offset < len(record); offset += sectorBytes {
		binary.LittleEndian.PutUint64(record[offset:], sequence)
	}
	copy(record, magic[:])
	binary.LittleEndian.PutUint64(record[8:], sequence)
	binary.LittleEndian.PutUint64(record[16:], seed)
	binary.LittleEndian.PutUint64(record[24:], slot)
	binary.LittleEndian.PutUint32(record[32:], uint32(len(record)))
	binary.LittleEndian.PutUint32(record[checksumOffset:], 0)
	binary.LittleEndian.PutUint32(record[checksumOffset:], crc32.ChecksumIEEE(record))
}
