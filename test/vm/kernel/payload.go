package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// payload returns the compressed kernel that a bzImage carries, as
// Documentation/arch/x86/boot.rst describes the image. An emulated processor
// boots fastest what is not compressed.
func payload(image []byte) ([]byte, error) {
	const (
		setupSectors  = 0x1f1
		magic         = 0x202
		protocol      = 0x206
		payloadOffset = 0x248
		payloadLength = 0x24c
		end           = 0x250
		sector        = 512
	)
	if len(image) < end || string(image[magic:magic+4]) != "HdrS" {
		return nil, errors.New("parse kernel image: no setup header")
	}
	if v := binary.LittleEndian.Uint16(image[protocol:]); v < 0x208 {
		return nil, fmt.Errorf("parse kernel image: boot protocol %#x has no payload", v)
	}
	setup := int64(image[setupSectors])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*sector + int64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	length := int64(binary.LittleEndian.Uint32(image[payloadLength:]))
	// The last four bytes are the size of what is compressed.
	const trailer = 4
	if length < trailer || start+length > int64(len(image)) {
		return nil, fmt.Errorf("parse kernel image: payload of %d bytes at %d does not fit in", length, start)
	}
	return image[start : start+length-trailer], nil
}

// decompressor returns the command that decompresses its input, which begins
// so.
func decompressor(begin []byte) ([]string, error) {
	for _, format := range []struct {
		magic   string
		command []string
	}{
		{"\x28\xb5\x2f\xfd", []string{"zstd", "-dcq"}},
		{"\x02\x21\x4c\x18", []string{"lz4", "-dcq"}},
		{"\xfd7zXZ\x00", []string{"xz", "-dc"}},
		{"\x1f\x8b", []string{"gzip", "-dc"}},
	} {
		if bytes.HasPrefix(begin, []byte(format.magic)) {
			return format.command, nil
		}
	}
	return nil, fmt.Errorf("decompress: format %x is not known", begin[:min(len(begin), 6)])
}
