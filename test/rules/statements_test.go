package rules

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// mentions visits what the file uses of other packages, and panic.
func mentions(s source, visit func(node ast.Expr, name string)) {
	ast.Inspect(s.file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.SelectorExpr:
			if name := s.qualified(node); name != "" {
				visit(node, name)
			}
		case *ast.CallExpr:
			if ident, ok := node.Fun.(*ast.Ident); ok && ident.Name == "panic" {
				visit(ident, "panic")
			}
		}
		return true
	})
}

// checkExits finds code that ends the process on its own account. The test
// runners' main.go is as thin as that of cmd.
func checkExits(s source) (found []finding) {
	runner := s.under("test") && s.file.Name.Name == "main" && path.Base(s.path) == "main.go"
	if s.isTest() || s.isGenerated() || s.under("cmd") || runner {
		return nil
	}
	mentions(s, func(node ast.Expr, name string) {
		switch {
		case name == "panic", name == "os.Exit", name == "syscall.Exit", strings.HasSuffix(name, "/unix.Exit"),
			strings.HasPrefix(name, "log.Fatal"), strings.HasPrefix(name, "log.Panic"):
			found = append(found, s.findf(node, "%s: only cmd ends the process; return an error", name))
		}
	})
	return found
}

// checkByteOrder finds swapping outside maps.
func checkByteOrder(s source) (found []finding) {
	if s.isTest() || s.isGenerated() || s.under("maps") {
		return nil
	}
	// Packages that speak a protocol of their own, each with its reason.
	exceptions := map[string]string{
		"userspace/tunnel":   "HTTP/2 frames, RFC 9113 section 4.1",
		"userspace/datagram": "socket names and control messages, ip(7), udp(7)",
		"test/vm/kernel":     "the setup header of a kernel image, Documentation/arch/x86/boot.rst",
	}
	if _, ok := exceptions[s.folder()]; ok {
		return nil
	}
	mentions(s, func(node ast.Expr, name string) {
		switch {
		case strings.HasPrefix(name, "encoding/binary.BigEndian"),
			strings.HasPrefix(name, "encoding/binary.LittleEndian"),
			strings.HasPrefix(name, "encoding/binary.NativeEndian"),
			strings.HasPrefix(name, "math/bits.ReverseBytes"):
			found = append(found, s.findf(node, "%s: byte order has one home, maps", name))
		}
	})
	ast.Inspect(s.file, func(node ast.Node) bool {
		ident, ok := node.(*ast.Ident)
		if ok && slices.Contains([]string{"htons", "htonl", "ntohs", "ntohl"}, strings.ToLower(ident.Name)) {
			found = append(found, s.findf(ident, "%s: byte order has one home, maps", ident.Name))
		}
		return true
	})
	return found
}

// checkTags finds structs that bind BPF objects by hand.
func checkTags(s source) (found []finding) {
	if knowsBPF(s) {
		return nil
	}
	ast.Inspect(s.file, func(node ast.Node) bool {
		field, ok := node.(*ast.Field)
		if ok && field.Tag != nil && strings.Contains(field.Tag.Value, `ebpf:"`) {
			found = append(found, s.findf(field.Tag, "ebpf tag: only bpf, maps and loader know the kernel's objects"))
		}
		return true
	})
	return found
}

// checkSleeps finds tests that hope instead of waiting. Inside a bubble of
// testing/synctest, sleeping is how fake time passes.
func checkSleeps(s source) (found []finding) {
	if !s.isTest() && !s.under("test") {
		return nil
	}
	var bubbles []*ast.FuncLit
	ast.Inspect(s.file, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		if !ok || s.qualified(call.Fun) != "testing/synctest.Test" {
			return true
		}
		for _, arg := range call.Args {
			if bubble, ok := arg.(*ast.FuncLit); ok {
				bubbles = append(bubbles, bubble)
			}
		}
		return true
	})
	inBubble := func(pos token.Pos) bool {
		return slices.ContainsFunc(bubbles, func(b *ast.FuncLit) bool { return b.Pos() <= pos && pos < b.End() })
	}
	mentions(s, func(node ast.Expr, name string) {
		if name == "time.Sleep" && !inBubble(node.Pos()) {
			found = append(found, s.findf(node, "time.Sleep: wait for what happens, or fake time with testing/synctest"))
		}
	})
	return found
}
