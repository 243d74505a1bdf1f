package engine

import "strings"

// MaxPathBytes is the longest path of a delta, in bytes.
const MaxPathBytes = 512

// ValidatePath holds the grammar of the path of a delta: "/" (the root), or
// "/"-joined segments [A-Za-z_$][A-Za-z0-9_$.]*. A path addresses members of
// objects only; elements of arrays are reached by the pointers of a JSON
// Patch. The error is an *InvalidError with code "invalid_path" and the byte
// at which the rule broke.
func ValidatePath(path string) error { return validatePath(path) }

func validatePath[P string | []byte](path P) error {
	switch {
	case len(path) == 0:
		return invalid("invalid_path", "path", "a path is needed; \"/\" is the whole document")
	case len(path) > MaxPathBytes:
		return invalid("invalid_path", "path", "the path has %d bytes, at most %d are allowed", len(path), MaxPathBytes)
	case path[0] != '/':
		return invalidAt("invalid_path", "path", 0, "the path %q must begin with \"/\"", path)
	case len(path) == 1:
		return nil
	}
	first := true
	for i := 1; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '/':
			if first {
				return invalidAt("invalid_path", "path", i, "empty segment at byte %d of %q", i, path)
			}
			first = true
			continue
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '_', c == '$':
		case !first && (c >= '0' && c <= '9' || c == '.'):
		case first:
			return invalidAt("invalid_path", "path", i, "byte %d of %q: a segment begins with a letter, \"_\" or \"$\", not %q", i, path, rune(c))
		default:
			return invalidAt("invalid_path", "path", i, "byte %d of %q: a segment holds letters, digits, \"_\", \"$\" and \".\", not %q", i, path, rune(c))
		}
		first = false
	}
	if first {
		return invalidAt("invalid_path", "path", len(path)-1, "the path %q ends with \"/\"", path)
	}
	return nil
}

// ValidatePointer holds the rule of a JSON Pointer (RFC 6901) that reads a
// part of a document: "" or "/" stand for the whole document, anything else
// begins with "/" and has only the escapes ~0 and ~1.
func ValidatePointer(pointer string) error {
	const maxPointer = 4096
	switch {
	case pointer == "":
		return nil
	case len(pointer) > maxPointer:
		return invalid("invalid_pointer", "pointer", "the JSON Pointer has %d bytes, at most %d are allowed", len(pointer), maxPointer)
	case pointer[0] != '/':
		return invalidAt("invalid_pointer", "pointer", 0, "the JSON Pointer %q must begin with \"/\" (RFC 6901)", pointer)
	}
	for i := strings.IndexByte(pointer, '~'); i >= 0 && i < len(pointer); i++ {
		if pointer[i] == '~' && (i+1 == len(pointer) || pointer[i+1] != '0' && pointer[i+1] != '1') {
			return invalidAt("invalid_pointer", "pointer", i, "byte %d of %q: \"~\" is followed by 0 or 1 (RFC 6901)", i, pointer)
		}
	}
	return nil
}
