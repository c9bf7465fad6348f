// Package profile reads the forwarding profile of the Windows client into a
// [policy.Policy].
//
// A profile is taken whole or not at all: [Parse] returns every place where it
// is wrong, with a JSON pointer, the value and what was expected. What is
// merely odd, or not known here, is a [Warning].
//
// Numbers are JSON numbers or decimal strings, as the vendor's service writes
// both. Null counts as absent, except for an element of a list or a field that
// must be there. Field names match by case, as do ids; the words that choose
// something ("Tunnel", "Tcp") do not.
package profile

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

// Profile is a forwarding profile.
type Profile struct {
	// Policy is what the profile asks for, protected by
	// [policy.NeverAcquired].
	Policy *policy.Policy
	// Logs is how the agent's own log is to be kept.
	Logs LogSettings
	// ControlPlaneRevision is the revision of the vendor's policies,
	// compared only for equality. Policy.Revision is that of the profile.
	ControlPlaneRevision string
	// Context is the JSON document inside apsContextData, or nil. Nothing
	// depends on it.
	Context json.RawMessage
	// Warnings are in the order of the document; at most about a hundred
	// are listed.
	Warnings []Warning
	// Unknown holds the fields that nothing here reads, by JSON pointer, as
	// they were written; at most a thousand are kept.
	Unknown map[string]json.RawMessage
}

// LogSettings is how the agent's own log is to be kept. Zero means that the
// profile does not say. The profile's Windows path is ignored.
type LogSettings struct {
	SizeMB float64 // of one file
	Count  int     // of files
}

// Parse reads a profile of at most [MaxSize] bytes.
//
// The error is an [*InvalidError] if what was read is not a valid profile, and
// another one only if r could not be read.
func Parse(r io.Reader) (*Profile, error) {
	d, err := read(r)
	if err != nil {
		return nil, err
	}
	p := new(Profile)
	if o, ok := d.root().object("policy", "configuration", "settingsVersion", "controlPlanePoliciesVersion",
		"apsContextData"); ok {
		p.ControlPlaneRevision = o.optional("controlPlanePoliciesVersion").label(maxLabel)
		p.Context = apsContext(o.optional("apsContextData"))
		p.Policy = body(o.required("policy"))
		p.Policy.Revision = o.optional("settingsVersion").label(maxLabel)
		p.Policy.Settings, p.Logs = configuration(o.optional("configuration"))
	}
	if err := d.invalid(d.text, d.bom); err != nil {
		return nil, err
	}
	p.Warnings, p.Unknown = d.remarks(d.text), d.unknown
	return p, nil
}

// body reads the object that holds channels and rules.
func body(n *node) *policy.Policy {
	p := &policy.Policy{Protected: policy.NeverAcquired()}
	o, ok := n.object("id", "tenantId", "channels", "rules", "privateDnsRules")
	if !ok {
		return p
	}
	p.ID = o.optional("id").label(MaxID)
	p.Tenant = o.optional("tenantId").label(MaxID)
	p.Channels = channels(o.required("channels"))
	p.Rules = rules(o.required("rules"), p.Channels)
	p.PrivateDNS = privateDNS(o.optional("privateDnsRules"))
	return p
}

// apsContext reads a JSON document that the vendor puts into a string. It is the
// service's own book-keeping, so a broken one is no reason to go without the
// profile.
func apsContext(n *node) json.RawMessage {
	s, ok := n.str()
	if !ok || strings.TrimSpace(s) == "" {
		return nil
	}
	if !json.Valid([]byte(s)) {
		n.warn("the text inside is not JSON; it is ignored")
		return nil
	}
	return json.RawMessage(s)
}
