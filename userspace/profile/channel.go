package profile

import "github.com/bpfacq/bpfacq/userspace/policy"

const (
	maxLabel = 256  // bytes of a name or revision
	maxToken = 2048 // bytes of each part of a token context
)

// channels reads the list of channels.
func channels(list *node) []policy.Channel {
	var read []policy.Channel
	seen := make(map[string]bool)
	for item := range list.items() {
		o, ok := item.object("id", "name", "edgesSettings", "naasAuthorizationTokenContext", "diagnosticUri")
		if !ok {
			continue
		}
		c := channel(o)
		if seen[c.ID] && c.ID != "" {
			o.required("id").reject("an id that no other channel has")
		}
		seen[c.ID] = true
		read = append(read, c)
	}
	return read
}

func channel(o object) policy.Channel {
	c := policy.Channel{
		ID:            o.required("id").id(),
		Name:          o.optional("name").label(maxLabel),
		DiagnosticURI: o.optional("diagnosticUri").httpURL(),
		Token:         tokenContext(o.optional("naasAuthorizationTokenContext")),
	}
	if settings, ok := o.required("edgesSettings").object("primaryEdges", "secondaryEdges"); ok {
		c.Primary = edges(settings.optional("primaryEdges"))
		c.Secondary = edges(settings.optional("secondaryEdges"))
	}
	if len(c.Primary)+len(c.Secondary) == 0 {
		o.at.warn("the channel has no edge, so it cannot carry flows")
	}
	if o.optional("diagnosticUri") == nil {
		o.at.warn("the channel has no diagnosticUri, so only dialing its edges can tell whether it works")
	}
	return c
}

func edges(list *node) []policy.Edge {
	var read []policy.Edge
	for item := range list.items() {
		o, ok := item.object("edgeAddress", "edgePort", "isSecure")
		if !ok {
			continue
		}
		port, _ := o.required("edgePort").port(1)
		read = append(read, policy.Edge{
			Host:   o.required("edgeAddress").hostName(),
			Port:   port,
			Secure: o.optional("isSecure").boolean(true),
		})
	}
	return read
}

// tokenContext reads which token to ask for, or nil where the profile has
// null.
func tokenContext(n *node) *policy.TokenContext {
	o, ok := n.object("clientAppId", "audienceScope", "clientRedirectUri")
	if !ok {
		return nil
	}
	return &policy.TokenContext{
		ClientAppID:       o.optional("clientAppId").label(maxToken),
		AudienceScope:     o.optional("audienceScope").label(maxToken),
		ClientRedirectURI: o.optional("clientRedirectUri").label(maxToken),
	}
}
