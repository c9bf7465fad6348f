package profile

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfacq/bpfacq/userspace/policy"
)

const sampleFile = "testdata/gsa-forwarding-profile.json"

func sample(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile(sampleFile)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func mustParse(tb testing.TB, text string) *Profile {
	tb.Helper()
	p, err := Parse(strings.NewReader(text))
	if err != nil {
		tb.Fatalf("parse: %v", err)
	}
	return p
}

// comparers compare what a profile holds by what it means.
var comparers = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b policy.NamePattern) bool {
		return a.Source == b.Source && a.Instructions() == b.Instructions()
	}),
	cmpopts.EquateEmpty(),
}

func diff(tb testing.TB, got, want any) {
	tb.Helper()
	if d := cmp.Diff(want, got, comparers); d != "" {
		tb.Errorf("-want +got:\n%s", d)
	}
}

func name(tb testing.TB, source string) policy.NamePattern {
	tb.Helper()
	pattern, err := policy.ParseNamePattern(source)
	if err != nil {
		tb.Fatal(err)
	}
	return pattern
}

func TestSampleLoadsAsItIs(t *testing.T) {
	const (
		channel = "xxxxxxxx-xxxx-xxxx-xxxx-2a8ff07f474c"
		client  = "xxxxxxxx-xxxx-xxxx-xxxx-c8e0298fee16"
		native  = "https://login.microsoftonline.com/common/oauth2/nativeclient"
		tenant  = "xxxxxxxx-xxxx-xxxx-xxxx-92d6d4889ec8"
	)
	got := mustParse(t, sample(t))

	diff(t, got.Policy, &policy.Policy{
		ID:       tenant,
		Tenant:   tenant,
		Revision: "CPV:RV:2024-06-11T08:12:31.9106340Z_CPLM:20240611081007.000_NAV:CommonVersion_14",
		Channels: []policy.Channel{{
			ID:   channel,
			Name: "Private",
			Primary: []policy.Edge{{
				Host:   tenant + ".private.client.globalsecureaccess.microsoft.com",
				Port:   443,
				Secure: true,
			}},
			DiagnosticURI: "https://private.edgediagnostic.globalsecureaccess.microsoft.com/connectivitytest/ping",
			Token: &policy.TokenContext{
				ClientAppID:       client,
				AudienceScope:     "xxxxxxxx-xxxx-xxxx-xxxx-168f2376341c/NetworkProfile.Private",
				ClientRedirectURI: native,
			},
		}},
		Rules: []policy.Rule{{
			ID:        "xxxxxxxx-xxxx-xxxx-xxxx-111111111111",
			Channel:   channel,
			Action:    policy.ActionBypass,
			Hardening: policy.HardeningBypass,
			Names: []policy.NamePattern{
				name(t, `.+\.client\.globalsecureaccess\.microsoft\.com`),
				name(t, `.+\.client\.globalsecureaccess\.microsoft\.com\..+`),
				name(t, `aps\.globalsecureaccess\.microsoft\.com`),
			},
			Ports:               []policy.PortRange{policy.AllPorts()},
			Protocols:           policy.TCP,
			AcquireIfUnresolved: true,
		}, {
			ID:                  "xxxxxxxx-xxxx-xxxx-xxxx-333333333333",
			Order:               1,
			Channel:             channel,
			Action:              policy.ActionTunnel,
			Hardening:           policy.HardeningBypass,
			Names:               []policy.NamePattern{name(t, `private\.edgediagnostic\.globalsecureaccess\.microsoft\.com`)},
			Ports:               []policy.PortRange{policy.AllPorts()},
			Protocols:           policy.TCP,
			AcquireIfUnresolved: true,
		}, {
			ID:        "xxxxxxxx-xxxx-xxxx-xxxx-a7240ed867b4",
			Order:     2,
			Channel:   channel,
			Action:    policy.ActionTunnel,
			Hardening: policy.HardeningBypass,
			Addrs: []policy.AddrRange{{
				First: netip.MustParseAddr("192.168.11.0"),
				Last:  netip.MustParseAddr("192.168.11.255"),
			}},
			Ports:               []policy.PortRange{{First: 22, Last: 22}, {First: 80, Last: 80}, {First: 443, Last: 443}, {First: 3389, Last: 3389}},
			Protocols:           policy.TCP,
			AcquireIfUnresolved: true,
			Token: &policy.TokenContext{
				ClientAppID:       client,
				AudienceScope:     "api://xxxxxxxx-xxxx-xxxx-xxxx-0ec73e857d9e/user_impersonation",
				ClientRedirectURI: native,
			},
		}},
		Settings: policy.Settings{
			PolicyPollInterval:   5 * time.Minute,
			GraceTime:            3500 * time.Millisecond,
			ProbeInterval:        10 * time.Second,
			SyntheticPool:        netip.MustParsePrefix("6.6.0.0/16"),
			CacheTokens:          true,
			TokenRefreshInterval: 20 * time.Second,
		},
		Protected: policy.NeverAcquired(),
	})
	diff(t, got.Logs, LogSettings{SizeMB: 2, Count: 3})
	diff(t, got.ControlPlaneRevision, "20240611081007.000")
	diff(t, got.Warnings, []Warning(nil))
	diff(t, got.Unknown, map[string]json.RawMessage(nil))

	var context struct{ LastResponseStatus string }
	if err := json.Unmarshal(got.Context, &context); err != nil {
		t.Error(err)
	}
	diff(t, context.LastResponseStatus, "SettingsNotModified")
}

func TestByteOrderMarkIsAccepted(t *testing.T) {
	text := sample(t)
	diff(t, mustParse(t, "\xef\xbb\xbf"+text), mustParse(t, text))
}

func TestNumbersMayBeStrings(t *testing.T) {
	text := sample(t)
	number := regexp.MustCompile(`": ([0-9.]+)`)
	quoted := number.ReplaceAllString(text, `": "$1"`)
	if n := len(number.FindAllString(text, -1)); n != 26 {
		t.Fatalf("%d numbers in the sample, want 26", n)
	}
	diff(t, mustParse(t, quoted), mustParse(t, text))
}

func TestNullIsAbsent(t *testing.T) {
	text := `{"policy": {"id": null, "tenantId": null, "privateDnsRules": null, "channels": null, "rules": [
		{"id": "a", "order": 1, "action": "Bypass", "hardening": null, "channelId": null, "acquireIfUnresolved": null,
		 "appAuthorizationTokenContext": null,
		 "matchingCriteria": {"address": {"ips": null, "fqdns": null}, "ports": null, "protocol": null}},
		{"id": "b", "order": 2, "action": "Bypass", "matchingCriteria": {"address": null}}]},
		"configuration": null, "settingsVersion": null, "controlPlanePoliciesVersion": null, "apsContextData": null}`
	got := mustParse(t, text)
	want := policy.Rule{
		Action:              policy.ActionBypass,
		Hardening:           policy.HardeningBypass,
		Ports:               []policy.PortRange{policy.AllPorts()},
		Protocols:           policy.AnyProtocol,
		AcquireIfUnresolved: true,
	}
	first, second := want, want
	first.ID, first.Order = "a", 1
	second.ID, second.Order = "b", 2
	diff(t, got, &Profile{Policy: &policy.Policy{Rules: []policy.Rule{first, second}, Protected: policy.NeverAcquired()}})
}

func TestRulesAreSortedByOrder(t *testing.T) {
	rule := func(id, order string) string {
		return `{"id": "` + id + `", "order": ` + order + `, "action": "Bypass", "matchingCriteria": {}}`
	}
	text := `{"policy": {"channels": [], "rules": [` + strings.Join([]string{
		rule("late", "10"), rule("tie 1", "2.5"), rule("early", "-1e3"), rule("tie 2", `"2.50"`), rule("zero", "0"),
	}, ",") + `]}}`
	got := mustParse(t, text)

	var ids []string
	for _, r := range got.Policy.Rules {
		ids = append(ids, r.ID)
	}
	diff(t, ids, []string{"early", "zero", "tie 1", "tie 2", "late"})
	diff(t, got.Warnings, []Warning{{
		Pointer: "/policy/rules/3/order",
		Text:    `rule "tie 2" has the order of rule "tie 1", so their sequence in the profile decides`,
		Line:    1,
	}})
}

func TestNothingOfTheDocumentIsRetained(t *testing.T) {
	text := []byte(strings.Replace(sample(t), `"policy"`, `"x": [1, 2], "policy"`, 1))
	got, err := Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	diff(t, got.Unknown, map[string]json.RawMessage{"/x": json.RawMessage("[1, 2]")})
	if c := cap(got.Unknown["/x"]); c > 64 {
		t.Errorf("an unknown field of 6 bytes keeps %d", c)
	}
}
