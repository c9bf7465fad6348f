package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkGlobals finds init functions and package-level variables. Sentinels,
// compiled regular expressions, embedded files and interface assertions are not
// state.
func checkGlobals(s source) (found []finding) {
	if s.isTest() || s.isGenerated() {
		return nil
	}
	for _, decl := range s.file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Recv == nil && decl.Name.Name == "init" {
				found = append(found, s.findf(decl, "init: what a package needs arrives as an argument"))
			}
		case *ast.GenDecl:
			if decl.Tok != token.VAR {
				continue
			}
			for _, spec := range decl.Specs {
				spec := spec.(*ast.ValueSpec)
				if !s.isConstant(spec) && !isEmbedded(decl.Doc) && !isEmbedded(spec.Doc) {
					found = append(found, s.findf(spec, "variable %s: what a package needs arrives as an argument", spec.Names[0]))
				}
			}
		}
	}
	return found
}

// isConstant reports whether nobody has a reason to change the variable.
func (s source) isConstant(spec *ast.ValueSpec) bool {
	if spec.Names[0].Name == "_" {
		return true
	}
	if len(spec.Values) != len(spec.Names) {
		return false
	}
	for i, value := range spec.Values {
		sentinel := strings.HasPrefix(strings.ToLower(spec.Names[i].Name), "err")
		made := s.qualified(value) // an errno as a sentinel
		if call, ok := value.(*ast.CallExpr); ok {
			made = s.qualified(call.Fun)
		}
		if !strings.HasPrefix(made, "regexp.MustCompile") && (!sentinel || made == "") {
			return false
		}
	}
	return true
}

func isEmbedded(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for _, comment := range doc.List {
		if strings.HasPrefix(comment.Text, "//go:embed ") {
			return true
		}
	}
	return false
}

// checkDocs finds exported names without a comment that starts with the name.
// A group of constants or variables may share one.
func checkDocs(s source) (found []finding) {
	if s.isTest() || s.isGenerated() || s.file.Name.Name == "main" {
		return nil
	}
	demand := func(name *ast.Ident, doc *ast.CommentGroup) {
		if name.IsExported() && !startsWith(doc, name.Name) {
			found = append(found, s.findf(name, "%s: wants a comment that starts with its name", name))
		}
	}
	for _, decl := range s.file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if receiverExported(decl) {
				demand(decl.Name, decl.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					demand(spec.Name, either(spec.Doc, decl.Doc))
				case *ast.ValueSpec:
					grouped := decl.Lparen.IsValid()
					if grouped && either(decl.Doc, either(spec.Doc, spec.Comment)) != nil {
						continue
					}
					demand(spec.Names[0], either(spec.Doc, decl.Doc))
				}
			}
		}
	}
	return found
}

func either(first, second *ast.CommentGroup) *ast.CommentGroup {
	if first != nil {
		return first
	}
	return second
}

func startsWith(doc *ast.CommentGroup, name string) bool {
	rest, found := strings.CutPrefix(doc.Text(), name)
	next, _ := utf8.DecodeRuneInString(rest)
	return found && !unicode.IsLetter(next) && !unicode.IsDigit(next)
}

// receiverExported reports whether a function is reachable by its own name.
func receiverExported(decl *ast.FuncDecl) bool {
	if decl.Recv == nil {
		return true
	}
	expr := decl.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return true
		}
	}
}

// checkPackageDocs finds packages that no file introduces.
func checkPackageDocs(sources []source) (found []finding) {
	introduced := make(map[string]bool)
	first := make(map[string]source)
	for _, s := range sources {
		if s.isTest() {
			continue
		}
		if _, ok := first[s.folder()]; !ok {
			first[s.folder()] = s
		}
		name := s.file.Name.Name
		if startsWith(s.file.Doc, "Package "+name) || name == "main" && s.file.Doc.Text() != "" {
			introduced[s.folder()] = true
		}
	}
	for folder, s := range first {
		if !introduced[folder] {
			found = append(found, s.findf(s.file.Name, "package %s: wants a comment that starts with \"Package %s\"", folder, s.file.Name))
		}
	}
	return found
}

var noise = regexp.MustCompile(`(?i)\b(failed to|errors?|unable to|could not|couldn't|cannot|can't)\b`)

// checkErrorTexts judges the literals that errors are made of.
func checkErrorTexts(s source) (found []finding) {
	if s.isTest() || s.isGenerated() {
		return nil
	}
	ast.Inspect(s.file, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		if made := s.qualified(call.Fun); made != "errors.New" && made != "fmt.Errorf" {
			return true
		}
		text, whole := literal(call.Args[0])
		if complaint := complain(text, whole); complaint != "" {
			found = append(found, s.findf(call, "error text %q: %s", text, complaint))
		}
		return true
	})
	return found
}

// literal returns the text that expr starts with, and whether that is all.
func literal(expr ast.Expr) (text string, whole bool) {
	switch e := expr.(type) {
	case *ast.BasicLit:
		if _, err := fmt.Sscanf(e.Value, "%q", &text); err == nil {
			return text, true
		}
	case *ast.BinaryExpr:
		left, leftWhole := literal(e.X)
		if !leftWhole {
			return left, false
		}
		right, rightWhole := literal(e.Y)
		return left + right, rightWhole
	}
	return "", false
}

func complain(text string, whole bool) string {
	first, _ := utf8.DecodeRuneInString(text)
	switch {
	case unicode.IsUpper(first):
		return "starts in lower case, with a verb"
	case whole && text == "":
		return "says nothing"
	case whole && strings.ContainsAny(text[len(text)-1:], ".!:\n "):
		return "ends without a stop"
	case noise.MatchString(text):
		return fmt.Sprintf("%q is noise: say what was being done", noise.FindString(text))
	}
	return ""
}
