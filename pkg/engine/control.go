package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
)

// Control objects are the JSON objects under _lake/ that say which epochs exist
// and which segments count. JSON alone does not show a flipped bit: a digit of a
// segment's name would be another segment. So they end in a checksum,
//
//	{"epoch":1,…,"crc32c":"0a1b2c3d"}
//
// CRC-32C (Castagnoli), in hexadecimal, of the same object without that member.
// Objects without one are from before it was introduced; they are read all the
// same, as long as they are spelled as they were written.
const controlSum = `,"crc32c":"%08x"}`

var controlTable = crc32.MakeTable(crc32.Castagnoli)

// marshalControl gives the bytes of a control object, a struct with at least one
// field.
func marshalControl(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(b[:len(b)-1], controlSum, crc32.Checksum(b, controlTable)), nil
}

// unmarshalControl reads a control object into v. ErrDamaged, naming the object,
// when a byte of it is not as it was written.
func unmarshalControl(key string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s is not the JSON object that it was: %w", ErrDamaged, key, err)
	}
	summed, err := marshalControl(v)
	if err != nil {
		return err
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, summed) && !bytes.Equal(b, plain) {
		return fmt.Errorf("%w: %s is not spelled as it was written, or its checksum is another", ErrDamaged, key)
	}
	return nil
}
