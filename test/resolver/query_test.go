package resolver

import "github.com/miekg/dns"

// query is a query in its bytes, as most stubs send it: recursion desired, no
// EDNS. Changes are made to it before it is packed.
func query(name, kind string, changes ...func(*dns.Msg)) []byte {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[kind])
	m.Id = 0x1234
	for _, change := range changes {
		change(m)
	}
	packed, err := m.Pack()
	if err != nil {
		panic(err) // what this file asks for can be packed
	}
	return packed
}

// edns adds the record of EDNS with a size of datagrams.
func edns(size uint16, do bool, options ...dns.EDNS0) func(*dns.Msg) {
	return func(m *dns.Msg) {
		m.SetEdns0(size, do)
		m.IsEdns0().Option = options
	}
}

// kind asks for a type that has no name.
func kind(number uint16) func(*dns.Msg) {
	return func(m *dns.Msg) { m.Question[0].Qtype = number }
}
