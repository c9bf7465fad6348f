package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
)

// redirection is a rule that takes traffic away from where it goes.
type redirection struct {
	table, chain string // the table with its family
	verb         string // tproxy or redirect
	output       bool   // the chain sees connections of this host
}

// chain is a chain of rules, by the table with its family and its name.
type chain struct{ table, name string }

// jumps are the chains that rules of a chain go on to.
type jumps map[chain][]chain

func (j jumps) add(table, from, to string) {
	at := chain{table, from}
	j[at] = append(j[at], chain{table, to})
}

// reach is the chains that packets come to which are at one of these: those that
// acquirers redirect in are mostly not those of the hooks themselves.
func (j jumps) reach(from []chain) map[chain]bool {
	seen := make(map[chain]bool)
	for len(from) > 0 {
		at := from[0]
		from = from[1:]
		if !seen[at] {
			seen[at] = true
			from = append(from, j[at]...)
		}
	}
	return seen
}

// Redirections of others, by what they can do.
const (
	redirectRemedy = "see that it leaves loopback, and the addresses of the edges, alone"
	effectOutput   = "it sees local connections after connect() was decided, those to the listener and to the edges included"
	effectForward  = "it sees forwarded packets, and what is sent through loopback with its mark; bpfacq's own connections are neither"
)

func (x *examination) mayList() bool { return x.process.may() }

func checkNftables(ctx context.Context, x *examination) []Finding {
	if !x.mayList() {
		return []Finding{needsRoot("rules of nftables are shown to root only")}
	}
	listing, err := x.Run(ctx, "nft", "--json", "--stateless", "list", "ruleset")
	if errors.Is(err, exec.ErrNotFound) {
		return []Finding{{State: StateUnknown, Cause: "nft is not installed: rules of nftables, if there are any, are not seen", Remedy: "apt install nftables"}}
	}
	if err != nil {
		return []Finding{x.unknown("", err)}
	}
	found, opaque, err := nftRedirections(listing)
	if err != nil {
		return []Finding{x.unknown("", err)}
	}
	x.flowtables = answerNo
	if bytes.Contains(listing, []byte(`"flowtable":`)) {
		x.flowtables = answerYes
	}
	x.opaque = opaque
	return redirections(found, "no rules of nftables that redirect")
}

// nftRedirections reads what libnftables-json(5) describes. Rules that iptables
// has made may be opaque.
func nftRedirections(listing []byte) (found []redirection, opaque bool, err error) {
	var ruleset struct {
		Objects []struct {
			Chain *struct{ Family, Table, Name, Hook string }
			Rule  *struct {
				Family, Table, Chain string
				Expr                 []map[string]json.RawMessage
			}
		} `json:"nftables"`
	}
	if err := json.Unmarshal(listing, &ruleset); err != nil {
		return nil, false, fmt.Errorf("read the answer of nft: %w", err)
	}
	var hooked []chain // of output
	next := make(jumps)
	for _, object := range ruleset.Objects {
		if c := object.Chain; c != nil && c.Hook == "output" {
			hooked = append(hooked, chain{c.Family + " " + c.Table, c.Name})
		}
	}
	for _, object := range ruleset.Objects {
		r := object.Rule
		if r == nil {
			continue
		}
		for _, expression := range r.Expr {
			verb := ""
			for name, value := range expression {
				var target struct{ Name, Target string }
				switch name {
				case "jump", "goto":
					_ = json.Unmarshal(value, &target)
					next.add(r.Family+" "+r.Table, r.Chain, target.Target)
				case "tproxy", "redirect":
					verb = name
				case "xt":
					// An answer that is not an object leaves no name.
					_ = json.Unmarshal(value, &target)
					verb, opaque = xtVerb(target.Name), opaque || target.Name == ""
				}
			}
			if verb != "" {
				found = append(found, redirection{r.Family + " " + r.Table, r.Chain, verb, false})
			}
		}
	}
	markOutput(found, next.reach(hooked))
	return found, opaque, nil
}

func markOutput(found []redirection, output map[chain]bool) {
	for i, r := range found {
		found[i].output = output[chain{r.table, r.chain}]
	}
}

// xtVerb is the meaning of a target of iptables.
func xtVerb(target string) string {
	switch target {
	case "TPROXY", "REDIRECT":
		return strings.ToLower(target)
	}
	return ""
}

// redirections counts rules by their chains.
func redirections(found []redirection, none string) []Finding {
	counts := make(map[redirection]int)
	for _, r := range found {
		counts[r]++
	}
	order := slices.SortedFunc(maps.Keys(counts), func(a, b redirection) int {
		return strings.Compare(a.table+" "+a.chain+" "+a.verb, b.table+" "+b.chain+" "+b.verb)
	})
	var all []Finding
	for _, r := range order {
		cause := fmt.Sprintf("table %s, chain %s: %d × %s", r.table, r.chain, counts[r], r.verb)
		if r.output {
			all = append(all, warned(redirectRemedy, "%s: %s", cause, effectOutput))
		} else {
			all = append(all, noted(redirectRemedy, "%s: %s", cause, effectForward))
		}
	}
	if len(all) == 0 {
		return []Finding{fine("%s", none)}
	}
	return all[:min(len(all), maxListed)]
}

// checkIptables looks at the rules that nft does not show: those of the old
// tables, and those in which it cannot read the targets.
func checkIptables(ctx context.Context, x *examination) []Finding {
	const none = "no rules of iptables that redirect"
	if !x.mayList() {
		return []Finding{needsRoot("rules of iptables are shown to root only")}
	}
	var all []redirection
	var missing []Finding
	for _, family := range []struct{ name, program, tables string }{
		{"ip", "iptables", "proc/thread-self/net/ip_tables_names"},
		{"ip6", "ip6tables", "proc/thread-self/net/ip6_tables_names"},
	} {
		legacy := firstLine(x.Root, family.tables) != ""
		for _, kind := range []struct {
			there bool
			name  string
		}{{legacy, "legacy"}, {x.opaque, "nft"}} {
			if !kind.there {
				continue
			}
			listing, err := x.runFirst(ctx, family.program+"-"+kind.name+"-save", family.program+"-save")
			if errors.Is(err, exec.ErrNotFound) {
				missing = append(missing, Finding{State: StateUnknown, Remedy: "apt install iptables",
					Cause: fmt.Sprintf("%s-save is not installed: rules of %s are there and not seen", family.program, family.program)})
				continue
			}
			if err != nil {
				missing = append(missing, x.unknown("", err))
				continue
			}
			all = append(all, savedRedirections(family.name, string(listing))...)
		}
	}
	if len(all) == 0 && len(missing) > 0 {
		return missing
	}
	return append(redirections(all, none), missing...)
}

// runFirst runs the first of several programs that is installed.
func (x *examination) runFirst(ctx context.Context, names ...string) (listing []byte, err error) {
	for _, name := range names {
		if listing, err = x.Run(ctx, name); !errors.Is(err, exec.ErrNotFound) {
			break
		}
	}
	return listing, err
}

// savedRedirections reads what iptables-save(8) writes.
func savedRedirections(family, listing string) []redirection {
	var found []redirection
	var hooked []chain // of output
	next := make(jumps)
	table := ""
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = family + " " + name
			hooked = append(hooked, chain{table, "OUTPUT"})
			continue
		}
		words := strings.Fields(line)
		jump := slices.IndexFunc(words, func(word string) bool { return word == "-j" || word == "-g" })
		if len(words) < 2 || words[0] != "-A" || jump < 0 || jump+1 == len(words) {
			continue
		}
		next.add(table, words[1], words[jump+1])
		if verb := xtVerb(words[jump+1]); verb != "" {
			found = append(found, redirection{table, words[1], verb, false})
		}
	}
	markOutput(found, next.reach(hooked))
	return found
}
