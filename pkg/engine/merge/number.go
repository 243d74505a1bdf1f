package merge

import (
	"bytes"
	"strconv"
)

// equalNumbers compares two JSON numbers by exact decimal value: 1 = 1.0 =
// 10e-1, 1e400 ≠ 1e401, 0 = -0. No floats, no limit on the exponent, work
// linear in the literals.
func equalNumbers(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, y := decimalOf(a), decimalOf(b)
	if x.first < 0 || y.first < 0 {
		return x.first < 0 && y.first < 0 // zero, whatever its sign
	}
	if x.neg != y.neg || x.last-x.first != y.last-y.first {
		return false
	}
	for i, j := x.first, y.first; i <= x.last; i, j = i+1, j+1 {
		if x.digit(i) != y.digit(j) {
			return false
		}
	}
	return x.exponent() == y.exponent()
}

// decimal is a number literal taken apart: the digits of whole and fraction
// are one row, first and last its outermost non-zero digits (−1: all zero).
type decimal struct {
	neg         bool
	whole, frac []byte
	first, last int
	expNeg      bool
	exp         []byte // without leading zeros
}

func decimalOf(t []byte) decimal {
	d := decimal{first: -1, last: -1}
	if len(t) > 0 && t[0] == '-' {
		d.neg = true
		t = t[1:]
	}
	if i := bytes.IndexAny(t, "eE"); i >= 0 {
		e := t[i+1:]
		t = t[:i]
		if len(e) > 0 && (e[0] == '-' || e[0] == '+') {
			d.expNeg = e[0] == '-'
			e = e[1:]
		}
		d.exp = bytes.TrimLeft(e, "0")
	}
	d.whole = t
	if i := bytes.IndexByte(t, '.'); i >= 0 {
		d.whole, d.frac = t[:i], t[i+1:]
	}
	for i := range len(d.whole) + len(d.frac) {
		if d.digit(i) != '0' {
			if d.first < 0 {
				d.first = i
			}
			d.last = i
		}
	}
	return d
}

func (d *decimal) digit(i int) byte {
	if i < len(d.whole) {
		return d.whole[i]
	}
	return d.frac[i-len(d.whole)]
}

// exponent returns the power of ten of the last non-zero digit, in decimal.
func (d *decimal) exponent() string {
	shift := len(d.whole) - 1 - d.last
	if len(d.exp) <= 15 {
		e, _ := strconv.ParseInt("0"+string(d.exp), 10, 64)
		if d.expNeg {
			e = -e
		}
		return strconv.FormatInt(e+int64(shift), 10)
	}
	// Far beyond what shift could turn around: the sign stays.
	if d.expNeg {
		return "-" + addDecimal(d.exp, -shift)
	}
	return addDecimal(d.exp, shift)
}

// addDecimal adds n to a decimal number that is larger than |n|.
func addDecimal(digits []byte, n int) string {
	out := bytes.Clone(digits)
	for i := len(out) - 1; i >= 0 && n != 0; i-- {
		n += int(out[i] - '0')
		r := n % 10
		n /= 10
		if r < 0 {
			r += 10
			n--
		}
		out[i] = '0' + byte(r)
	}
	if n > 0 {
		out = append([]byte(strconv.Itoa(n)), out...)
	}
	return string(bytes.TrimLeft(out, "0"))
}
