package merge

// Checker holds values that stand inside a larger text to the rules of Check,
// without allocating for each. The zero value is ready. It is not safe for
// concurrent use.
type Checker struct{ c checker }

// Value checks the value that begins at text[at], as Check would, and returns it
// without its insignificant white space, with the index behind it. The text must
// be UTF-8 (utf8.Valid). The value shares memory with the text or with the
// Checker, and is good until the next call. The error is a *BodyError whose
// Offset counts from the beginning of the text.
//
// That the value is a JSON Patch is for CheckPatch to say.
func (k *Checker) Value(text []byte, at int, lim Limits) (value []byte, end int, err error) {
	k.room()
	end = k.c.root(text, at, lim.withDefaults())
	if k.c.err != nil {
		return nil, -1, k.c.err
	}
	return k.c.result(end), end, nil
}

// Check is the function Check, but the result shares memory with the body or with
// the Checker, and is good until the next call.
func (k *Checker) Check(t Type, body []byte, lim Limits) ([]byte, error) {
	k.room()
	return k.c.check(t, body, lim)
}

// room keeps the checker from taking a buffer as long as the text.
func (k *Checker) room() {
	if k.c.out == nil {
		k.c.out = make([]byte, 0, 512)
	}
}

// CheckPatch holds a value that a Checker has passed to the rules of a JSON
// Patch. The error is a *BodyError without a place in the text.
func CheckPatch(value []byte, lim Limits) error {
	return checkPatch(value, lim.withDefaults())
}
