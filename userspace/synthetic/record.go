package synthetic

import (
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// The log is text, a line each. The first says what it is; each other one gives
// an address to a name, and so takes it from the name that had it:
//
//	037b6364 synthetic addresses of bpfacq, version 1
//	6bedc16b 6.6.0.1 build.corp.example
//
// The checksum is CRC-32C of what follows the space after it. Names are in the
// form of [policy.CanonicalName], which has neither spaces nor line ends.
const (
	title   = "synthetic addresses of bpfacq, version "
	version = "1"
)

// maxLine is longer than any line: that of 255 octets of which each is escaped.
const maxLine = 8 + len(" 255.255.255.255 ") + 4*255 + len("\n")

// record is a line after the first.
type record struct {
	addr netip.Addr // IPv4
	name string     // canonical
}

func (r record) line() string { return sealed(r.addr.String() + " " + r.name) }

func headline() string { return sealed(title + version) }

// sealed is the line of a text without a line end.
func sealed(text string) string { return fmt.Sprintf("%08x %s\n", checksum(text), text) }

func checksum(text string) uint32 {
	return crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli))
}

// unsealed is the text of a line, which comes without its end, if it is whole.
func unsealed(line string) (text string, ok bool) {
	sum, text, ok := strings.Cut(line, " ")
	if !ok || len(sum) != 8 {
		return "", false
	}
	want, err := strconv.ParseUint(sum, 16, 32)
	return text, err == nil && uint32(want) == checksum(text)
}

// parseRecord reads the text of a line after the first.
func parseRecord(text string) (r record, ok bool) {
	addr, name, _ := strings.Cut(text, " ")
	r.addr, _ = netip.ParseAddr(addr)
	r.name, ok = policy.CanonicalName(name)
	return r, ok && r.name == name && r.addr.Is4()
}
