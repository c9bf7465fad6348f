package dns

import (
	"bytes"
	"errors"
)

// errQuestion is that of a message without a question that can be read.
var errQuestion = errors.New("read the question: malformed")

// Bounds of names: RFC 1035, section 2.3.4.
const (
	maxLabel = 63
	maxName  = 255 // as on the wire
)

// question is what a query asks for.
type question struct {
	name        string // as Names has it; empty is the root
	kind, class uint16
	end         int // offset of what follows it in the message; 0: there is none
}

// parseQuestion reads the first question of a message. Its name is not
// compressed: nothing stands before it that a pointer could lead to.
func parseQuestion(message []byte) (question, error) {
	name := make([]byte, 0, maxName)
	at := headerSize
	for {
		if at >= len(message) {
			return question{}, errQuestion
		}
		size := int(message[at])
		at++
		if size == 0 {
			break
		}
		if size > maxLabel || at+size-headerSize >= maxName || at+size > len(message) {
			return question{}, errQuestion
		}
		if len(name) > 0 {
			name = append(name, '.')
		}
		for _, octet := range message[at : at+size] {
			name = appendOctet(name, octet)
		}
		at += size
	}
	if at+4 > len(message) {
		return question{}, errQuestion
	}
	return question{name: string(name), kind: word(message[at:]), class: word(message[at+2:]), end: at + 4}, nil
}

// appendOctet writes one octet of a label in the form that Names has.
func appendOctet(name []byte, octet byte) []byte {
	switch {
	case 'A' <= octet && octet <= 'Z':
		return append(name, octet|0x20)
	case octet <= ' ', octet > '~', octet == '.', octet == '\\':
		return append(name, '\\', '0'+octet/100, '0'+octet/10%10, '0'+octet%10)
	}
	return append(name, octet)
}

// answers reports whether answer, which came from the server that was asked, is
// that to query: of the same number, opcode and question. Servers may write the
// question in other case; one that found no sense in it may leave it away.
func answers(answer, query []byte) bool {
	if len(answer) < headerSize || answer[0] != query[0] || answer[1] != query[1] ||
		flags(answer)&flagResponse == 0 || flags(answer)&maskOpcode != flags(query)&maskOpcode {
		return false
	}
	asked, err := parseQuestion(query)
	if !isQuery(query) || questions(query) != 1 || err != nil {
		return true
	}
	if questions(answer) == 0 {
		return flags(answer)&maskRcode != 0
	}
	if len(answer) >= asked.end && bytes.Equal(answer[headerSize:asked.end], query[headerSize:asked.end]) {
		return true
	}
	echoed, err := parseQuestion(answer)
	return err == nil && echoed == asked
}
