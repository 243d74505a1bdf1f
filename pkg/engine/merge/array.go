package merge

import "slices"

// array is an opened array: a list of chunks, each a run of elements. A chunk
// is raw text until one of its elements is touched. With chunks of about √n
// elements, finding, inserting and removing cost √n, opening costs one scan,
// and an array of which one element is touched costs little more than its
// text.
type array struct {
	chunks []chunk
	n      int
}

type chunk struct {
	src   []byte // the elements with the commas between them
	n     int
	elems []value // nil: src is not split yet
}

const (
	firstChunk = 32    // elements in the first chunks of an opened array
	chunkSteps = 1_024 // chunks of one size before the size doubles
	maxElems   = 1_024 // elements of a split chunk
)

// openArray opens the text of an array, which may reach beyond its end.
func (m *machine) openArray(t []byte) *container {
	a := &array{}
	size := firstChunk
	es := elementsOf(t)
	var cur chunk
	start, end := -1, -1
	for es.next() {
		if cur.n == size {
			cur.src = t[start:end]
			a.chunks = append(a.chunks, cur)
			if len(a.chunks)%chunkSteps == 0 {
				size *= 2
			}
			cur, start = chunk{}, -1
		}
		if start < 0 {
			start = es.pos
		}
		es.pos = skipValue(t, es.pos)
		end = es.pos
		cur.n++
		a.n++
	}
	if es.bad {
		m.corrupt = true
		return &container{arr: &array{}, base: t, baseEnd: len(t)}
	}
	if cur.n > 0 {
		cur.src = t[start:end]
		a.chunks = append(a.chunks, cur)
	}
	return &container{arr: a, base: t, baseEnd: es.pos}
}

// locate returns the chunk of element i, split, and its place in it.
func (a *array) locate(i int) (k, j int) {
	for k = range a.chunks {
		if n := a.chunks[k].n; i < n {
			break
		} else {
			i -= n
		}
	}
	if a.chunks[k].elems == nil {
		a.split(k)
		for i >= a.chunks[k].n {
			i -= a.chunks[k].n
			k++
		}
	}
	return k, i
}

// split takes the text of chunk k apart.
func (a *array) split(k int) {
	c := &a.chunks[k]
	elems := make([]value, 0, c.n)
	t := c.src
	for i := 0; i < len(t) && len(elems) < c.n; {
		v, j := span(t, i)
		if j < 0 {
			break
		}
		elems = append(elems, value{text: v})
		if i = skipSpace(t, j); i < len(t) {
			i = skipSpace(t, i+1) // the comma
		}
	}
	c.elems, c.src = elems, nil
	if len(elems) > maxElems {
		a.halve(k)
	}
}

// halve replaces chunk k, split and too large, by chunks of half the most.
func (a *array) halve(k int) {
	elems := a.chunks[k].elems
	var parts []chunk
	for len(elems) > 0 {
		n := min(maxElems/2, len(elems))
		parts = append(parts, chunk{n: n, elems: slices.Clone(elems[:n])})
		elems = elems[n:]
	}
	a.chunks = slices.Replace(a.chunks, k, k+1, parts...)
}

// at returns the place of element i; it holds until the next insert or remove.
func (a *array) at(i int) *value {
	k, j := a.locate(i)
	return &a.chunks[k].elems[j]
}

// insert puts v before element i; i may be the length.
func (a *array) insert(i int, v value) {
	if len(a.chunks) == 0 {
		a.chunks = append(a.chunks, chunk{})
	}
	var k, j int
	if i == a.n {
		k = len(a.chunks) - 1
		if a.chunks[k].elems == nil && a.chunks[k].n > 0 {
			// Leave the text as it is: append behind it.
			a.chunks = append(a.chunks, chunk{})
			k++
		}
		j = a.chunks[k].n
	} else {
		k, j = a.locate(i)
	}
	c := &a.chunks[k]
	c.elems = slices.Insert(c.elems, j, v)
	c.n++
	a.n++
	if c.n > maxElems {
		a.halve(k)
	}
}

// remove takes element i out and returns it.
func (a *array) remove(i int) value {
	k, j := a.locate(i)
	c := &a.chunks[k]
	v := c.elems[j]
	c.elems = slices.Delete(c.elems, j, j+1)
	c.n--
	a.n--
	if c.n == 0 {
		a.chunks = slices.Delete(a.chunks, k, k+1)
	}
	return v
}
