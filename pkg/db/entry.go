package db

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// A log entry is a batch of transactions, in the order of their commits:
//
//	version byte · batch id · transactions, each:
//	  count of changes · changes (op, class, ref, fields (name, value))
//	  count of journal changes · (id, present, data)
//
// Numbers are varints, strings are length-prefixed, classes and fields stand
// by name so that a newer schema reads older logs. Values are final: applying
// an entry reads no clock and draws nothing.
const entryVersion = 1

var errEntry = errors.New("db: log entry is damaged")

type encoder struct{ b []byte }

func (e *encoder) num(n int64)   { e.b = binary.AppendVarint(e.b, n) }
func (e *encoder) text(s string) { e.num(int64(len(s))); e.b = append(e.b, s...) }

func (e *encoder) change(c Change) {
	e.b = append(e.b, byte(c.Op))
	e.text(c.Class.Name)
	e.text(c.Ref)
	e.num(int64(len(c.Fields)))
	for _, i := range c.Fields {
		e.text(c.Class.Fields[i].Name)
		e.value(c.Rec.Ptr(i))
	}
}

// Value tags: what follows in the entry.
const (
	tagString = iota + 1
	tagInt
	tagFloat
	tagBool
	tagTime
	tagStrings
	tagInts
	tagMap
	tagMapInt
	tagMapStrings
	tagIntMap
	tagFloatMap
	tagStringsMap
)

func (e *encoder) value(p any) {
	tag := func(t byte, n int) { e.b = append(e.b, t); e.num(int64(n)) }
	switch p := p.(type) {
	case *string:
		e.b = append(e.b, tagString)
		e.text(*p)
	case *int64:
		e.b = append(e.b, tagInt)
		e.num(*p)
	case *float64:
		e.b = binary.BigEndian.AppendUint64(append(e.b, tagFloat), math.Float64bits(*p))
	case *bool:
		n := 0
		if *p {
			n = 1
		}
		tag(tagBool, n)
	case *time.Time:
		e.b = append(e.b, tagTime)
		e.num(p.Unix())
	case *[]string:
		tag(tagStrings, len(*p))
		for _, s := range *p {
			e.text(s)
		}
	case *[]int64:
		tag(tagInts, len(*p))
		for _, n := range *p {
			e.num(n)
		}
	case *map[string]string:
		tag(tagMap, len(*p))
		for k, v := range *p {
			e.text(k)
			e.text(v)
		}
	default:
		e.rareValue(p)
	}
}

func (e *encoder) rareValue(p any) {
	tag := func(t byte, n int) { e.b = append(e.b, t); e.num(int64(n)) }
	switch p := p.(type) {
	case *map[string]int64:
		tag(tagMapInt, len(*p))
		for k, v := range *p {
			e.text(k)
			e.num(v)
		}
	case *map[string][]string:
		tag(tagMapStrings, len(*p))
		for k, v := range *p {
			e.text(k)
			e.value(&v)
		}
	case *map[int64]int64:
		tag(tagIntMap, len(*p))
		for k, v := range *p {
			e.num(k)
			e.num(v)
		}
	case *map[int64]float64:
		tag(tagFloatMap, len(*p))
		for k, v := range *p {
			e.num(k)
			e.value(&v)
		}
	case *map[int64][]string:
		tag(tagStringsMap, len(*p))
		for k, v := range *p {
			e.num(k)
			e.value(&v)
		}
	}
}

// decoder reads what encoder wrote; after the first failure all reads are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	d.b = nil
	if d.err == nil {
		d.err = errEntry
	}
}

func (d *decoder) num() int64 {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[size:]
	return n
}

// length reads a count of things that take a byte each at least.
func (d *decoder) length() int {
	n := d.num()
	if n < 0 || n > int64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) text() string {
	n := d.length()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) change(m *datamodel.Model) Change {
	c := Change{Op: Op(d.byte())}
	name := d.text()
	c.Ref = d.text()
	if c.Class = m.Class(name); c.Class == nil || c.Op < OpCreate || c.Op > OpDelete {
		d.fail()
		d.err = fmt.Errorf("%w: class %q, operation %d", errEntry, name, c.Op)
		return c
	}
	if c.Op != OpDelete {
		c.Rec = xenapi.New(c.Class.ID)
	}
	for range d.length() {
		field := d.text()
		f := c.Class.FieldByName(field)
		if f == nil || c.Rec == nil {
			d.fail()
			d.err = fmt.Errorf("%w: field %s.%s", errEntry, name, field)
			return c
		}
		d.value(c.Rec.Ptr(f.Index))
		c.Fields = append(c.Fields, f.Index)
	}
	return c
}

// value reads into p; a value of another type is damage.
func (d *decoder) value(p any) {
	tag := d.byte()
	switch p := p.(type) {
	case *string:
		d.expect(tag, tagString)
		*p = d.text()
	case *int64:
		d.expect(tag, tagInt)
		*p = d.num()
	case *float64:
		d.expect(tag, tagFloat)
		if len(d.b) < 8 {
			d.fail()
			return
		}
		*p = math.Float64frombits(binary.BigEndian.Uint64(d.b))
		d.b = d.b[8:]
	case *bool:
		d.expect(tag, tagBool)
		*p = d.num() != 0
	case *time.Time:
		d.expect(tag, tagTime)
		*p = time.Unix(d.num(), 0).UTC()
	case *[]string:
		d.expect(tag, tagStrings)
		*p = nil
		for range d.length() {
			*p = append(*p, d.text())
		}
	case *[]int64:
		d.expect(tag, tagInts)
		*p = nil
		for range d.length() {
			*p = append(*p, d.num())
		}
	case *map[string]string:
		d.expect(tag, tagMap)
		*p = map[string]string{}
		for range d.length() {
			k := d.text()
			(*p)[k] = d.text()
		}
	default:
		d.rareValue(tag, p)
	}
}

func (d *decoder) rareValue(tag byte, p any) {
	switch p := p.(type) {
	case *map[string]int64:
		d.expect(tag, tagMapInt)
		*p = map[string]int64{}
		for range d.length() {
			k := d.text()
			(*p)[k] = d.num()
		}
	case *map[string][]string:
		d.expect(tag, tagMapStrings)
		*p = map[string][]string{}
		for range d.length() {
			k, v := d.text(), []string(nil)
			d.value(&v)
			(*p)[k] = v
		}
	case *map[int64]int64:
		d.expect(tag, tagIntMap)
		*p = map[int64]int64{}
		for range d.length() {
			k := d.num()
			(*p)[k] = d.num()
		}
	case *map[int64]float64:
		d.expect(tag, tagFloatMap)
		*p = map[int64]float64{}
		for range d.length() {
			k, v := d.num(), 0.0
			d.value(&v)
			(*p)[k] = v
		}
	case *map[int64][]string:
		d.expect(tag, tagStringsMap)
		*p = map[int64][]string{}
		for range d.length() {
			k, v := d.num(), []string(nil)
			d.value(&v)
			(*p)[k] = v
		}
	default:
		d.fail()
	}
}

func (d *decoder) expect(got byte, want byte) {
	if got != want {
		d.fail()
	}
}

// entryTx is one transaction of a log entry.
type entryTx struct {
	changes []Change
	journal []journalChange
}

// encodeEntry writes a batch; id lets its proposer know it again.
func encodeEntry(id string, txs []entryTx) []byte {
	e := encoder{b: []byte{entryVersion}}
	e.text(id)
	e.num(int64(len(txs)))
	for _, tx := range txs {
		e.num(int64(len(tx.changes)))
		for _, c := range tx.changes {
			e.change(c)
		}
		e.num(int64(len(tx.journal)))
		for _, j := range tx.journal {
			e.text(j.id)
			if j.data == nil {
				e.num(0)
				continue
			}
			e.num(1)
			e.text(string(j.data))
		}
	}
	return e.b
}

// decodeEntry reads what encodeEntry wrote.
func decodeEntry(b []byte) (id string, txs []entryTx, err error) {
	d := decoder{b: b}
	if v := d.byte(); v != entryVersion {
		return "", nil, fmt.Errorf("%w: version %d", errEntry, v)
	}
	id = d.text()
	model := datamodel.Get()
	for range d.length() {
		var tx entryTx
		for range d.length() {
			tx.changes = append(tx.changes, d.change(model))
		}
		for range d.length() {
			j := journalChange{id: d.text()}
			if d.num() == 1 {
				j.data = []byte(d.text())
			}
			tx.journal = append(tx.journal, j)
		}
		txs = append(txs, tx)
	}
	if d.err == nil && len(d.b) != 0 {
		d.fail()
	}
	return id, txs, d.err
}

// entryID reads the batch id alone.
func entryID(b []byte) (string, error) {
	d := decoder{b: b}
	if v := d.byte(); v != entryVersion {
		return "", fmt.Errorf("%w: version %d", errEntry, v)
	}
	id := d.text()
	return id, d.err
}
