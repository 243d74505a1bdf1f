package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jsonlake/lake/pkg/engine/codec"
)

// Accepting a loss:
//
//	a damaged segment, or a pack of the last day, keeps every new epoch shut: passing it over in silence
//	would lose acknowledged writes. Whoever rebuilds with Options.AcceptLoss accepts that, and the record
//	_lake/loss/{epoch}/{object}.json says for good which bytes of the object count. It is put by the opener of
//	an epoch, after the fences and seals and before anything is restored from the object.
//
// From then on the record decides, not the object: also a copy that is put back later counts in the
// bytes that were kept and no others. The versions after the lost ones have been read and
// written upon; what comes back in between would change history (I2).

// AcceptAll, in Options.AcceptLoss, accepts the loss of every damaged object that a rebuild
// meets.
const AcceptAll = "all"

// Loss is damage to an object that somebody has accepted.
type Loss struct {
	Object string `json:"object"` // its key
	Size   int64  `json:"size"`   // bytes, and their checksum, as they were accepted
	SHA256 string `json:"sha256"`
	Epoch  uint64 `json:"epoch"` // that was being opened
	By     string `json:"by"`
	Time   string `json:"time"` // RFC 3339, by the clock of who accepted
	// Kept are the stretches of a segment that are intact; its runs count as ever. Of
	// a pack nothing is kept.
	Kept []Stretch `json:"kept"`
	// Lost is what stood in the rest, as far as it can be told: a damaged header may
	// say something wrong, or nothing.
	Lost []LostRun `json:"lost"`
	// Unknown is how many bytes tell nothing of what stood there.
	Unknown int64 `json:"unknown_bytes"`
	// Cut says that the object's end may be missing: how much stood there is not known.
	Cut bool `json:"cut,omitempty"`
}

// Stretch is a part of an object, in bytes.
type Stretch struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
}

// LostRun is a run that an object has lost.
type LostRun struct {
	Catalog string  `json:"catalog"`
	First   Version `json:"first"`
	Last    Version `json:"last"`
	// In says where it stands all the same: in a "snapshot", with the document, or in
	// another "segment". Empty: nowhere, it is gone.
	In string `json:"in,omitempty"`
}

// bytes is how much of the object does not count.
func (l *Loss) bytes() int64 {
	n := l.Size
	for _, s := range l.Kept {
		n -= s.Len
	}
	return n
}

// What says in words what is lost.
func (l *Loss) What() string {
	if catalog, ok := catalogOfKey(l.Object); ok && len(l.Lost) == 1 {
		return fmt.Sprintf("the deltas of catalog %q from version %s to %s; documents are whole, this part of the log is not", catalog, l.Lost[0].First, l.Lost[0].Last)
	}
	var gone []string
	for _, r := range l.Lost {
		if r.In == "" {
			gone = append(gone, fmt.Sprintf("catalog %q %s to %s", r.Catalog, r.First, r.Last))
		}
	}
	const most = 10
	if n := len(gone) - most; n > 0 {
		gone = append(gone[:most], fmt.Sprintf("and %d more", n))
	}
	if l.Unknown > 0 {
		gone = append(gone, fmt.Sprintf("%d bytes that do not tell of what", l.Unknown))
	}
	if l.Cut {
		gone = append(gone, "whatever stood in the end that is missing")
	}
	if len(gone) == 0 {
		return "nothing that does not stand elsewhere"
	}
	return strings.Join(gone, ", ")
}

func lossKey(epoch uint64, object string) string {
	return fmt.Sprintf("%s%06d/%s.json", lossPrefix, epoch, object)
}

// parseLossKey tells whose loss a record is about.
func parseLossKey(key string) (epoch uint64, object string, ok bool) {
	rest, ok1 := strings.CutPrefix(key, lossPrefix)
	rest, ok2 := strings.CutSuffix(rest, ".json")
	if !ok1 || !ok2 {
		return 0, "", false
	}
	if _, err := fmt.Sscanf(rest, "%d/", &epoch); err != nil {
		return 0, "", false
	}
	_, object, _ = strings.Cut(rest, "/")
	return epoch, object, lossKey(epoch, object) == key
}

// losses are the accepted losses of a lake, by object.
type losses struct {
	mu sync.Mutex
	of map[string]*Loss
}

func (l *losses) get(object string) *Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[object]
}

func (l *losses) put(loss *Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of[loss.Object] = loss
}

// losses reads all records. Of several about one object the last counts: it was made
// of what the one before had kept.
func (e *Engine) losses(ctx context.Context) (*losses, error) {
	all := &losses{of: map[string]*Loss{}}
	for o, err := range e.objects.List(ctx, lossPrefix, "") { // by epoch
		if err != nil {
			return nil, fmt.Errorf("list the records of accepted losses: %w", err)
		}
		if _, object, ok := parseLossKey(o.Key); ok {
			l, err := e.readLoss(ctx, o.Key)
			if err != nil {
				return nil, err
			}
			all.of[object] = l
		}
	}
	return all, nil
}

func (e *Engine) readLoss(ctx context.Context, key string) (*Loss, error) {
	b, err := e.getObject(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	l := &Loss{}
	if err := unmarshalControl(key, b, l); err != nil {
		return nil, err
	}
	if lossKey(l.Epoch, l.Object) != key {
		return nil, fmt.Errorf("%w: %s says that it is of %s in epoch %d", ErrDamaged, key, l.Object, l.Epoch)
	}
	return l, nil
}

// framesOf walks the frames of a segment that count: all, or those that an accepted
// loss has kept.
func framesOf(b []byte, l *Loss) iter.Seq2[codec.Located, error] {
	o := codec.Options{MaxPayload: maxFramePayload}
	if l == nil {
		return codec.Frames(b, o)
	}
	return func(yield func(codec.Located, error) bool) {
		for _, s := range l.Kept {
			for at := s.Off; at < s.Off+s.Len; {
				f, n, err := codec.Decode(b[min(at, int64(len(b))):min(s.Off+s.Len, int64(len(b)))], o)
				if err != nil {
					yield(codec.Located{Off: at}, fmt.Errorf("frame at byte %d: %w", at, err))
					return
				}
				if !yield(codec.Located{Frame: f, Off: at, Len: int64(n)}, nil) {
					return
				}
				at += int64(n)
			}
		}
	}
}

// frames gives the frames of a segment that count. What was accepted is asked for
// only when the segment turns out to be damaged.
func (e *Engine) frames(ctx context.Context, key string, b []byte) ([]codec.Located, *Loss, error) {
	read := func(l *Loss) (fs []codec.Located, err error) {
		for f, err := range framesOf(b, l) {
			if err != nil {
				return nil, fmt.Errorf("%w: segment %s: %w", ErrDamaged, key, err)
			}
			fs = append(fs, f)
		}
		return fs, nil
	}
	fs, err := read(nil)
	if !errors.Is(err, ErrDamaged) {
		return fs, nil, err
	}
	all, lerr := e.losses(ctx)
	if lerr != nil {
		return nil, nil, lerr
	}
	l := all.get(key)
	if l == nil {
		return nil, nil, err
	}
	fs, err = read(l)
	return fs, l, err
}

// accepts tells whether this engine was told to accept the loss of an object.
func (e *Engine) accepts(key string) bool {
	return slices.Contains(e.opts.AcceptLoss, key) || slices.Contains(e.opts.AcceptLoss, AcceptAll)
}

// lossHint is what to do about an object that keeps an epoch shut.
func lossHint(key string) string {
	return restoreHint + ", or give up what is lost of it with `lake rebuild --accept-loss " + key + "`"
}

// foreign tells of a frame that is whole, and that this version cannot read.
func foreign(err error) bool {
	return errors.Is(err, codec.ErrFormat) || errors.Is(err, codec.ErrEncrypted) || errors.Is(err, codec.ErrTooLarge)
}

// salvage finds out what is left of a damaged segment, of which an earlier loss may have
// been accepted already, and gives the runs that are.
func (e *Engine) salvage(id SegmentID, b []byte, before *Loss) (*Loss, []RestoreRun, error) {
	l := e.newLoss(id.Key(), b)
	counted := func(codec.Located) bool { return true }
	if before != nil {
		l.Lost, l.Unknown, l.Cut = slices.Clone(before.Lost), before.Unknown, before.Cut
		counted = func(f codec.Located) bool {
			return slices.ContainsFunc(before.Kept, func(s Stretch) bool { return s.Off < f.Off+f.Len && f.Off < s.Off+s.Len })
		}
	}
	var runs []RestoreRun
	for f, err := range codec.Salvage(b, codec.Options{MaxPayload: maxFramePayload}) {
		var r RestoreRun
		if !counted(f) {
			continue // lost before
		}
		if foreign(err) {
			return nil, nil, fmt.Errorf("%w: segment %s: %w; a newer version of Lake may read it: it is not given up", ErrDamaged, id.Key(), err)
		}
		if err == nil {
			r, err = restoreRun(id, &f)
		}
		if err == nil {
			if n := len(l.Kept); n > 0 && l.Kept[n-1].Off+l.Kept[n-1].Len == f.Off {
				l.Kept[n-1].Len += f.Len
			} else {
				l.Kept = append(l.Kept, Stretch{Off: f.Off, Len: f.Len})
			}
			runs = append(runs, r)
			continue
		}
		l.Cut = l.Cut || f.More
		first := versionOf(f.First)
		if f.Kind == codec.KindRun && ValidateCatalog(f.Catalog) == nil && f.N > 0 && int(f.N) <= e.opts.MaxBatch && first.Valid() {
			l.Lost = append(l.Lost, LostRun{Catalog: f.Catalog, First: first, Last: first.Add(int(f.N) - 1)})
		} else {
			l.Unknown += f.Len
		}
	}
	return l, runs, nil
}

func (e *Engine) newLoss(object string, b []byte) *Loss {
	sum := sha256.Sum256(b)
	return &Loss{Object: object, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:]), By: e.opts.AcceptedBy,
		Time: time.Now().UTC().Format(time.RFC3339), Kept: []Stretch{}, Lost: []LostRun{}}
}

// accept records a loss in the opening of epoch n, and makes sure that whoever opens a
// later one will see the record. The object must have been read twice with the
// same damage: what only one reading has is not lost.
func (e *Engine) accept(ctx context.Context, n uint64, l *Loss, all *losses) error {
	b, err := e.getObject(ctx, l.Object)
	if err != nil {
		return fmt.Errorf("get %s: %w", l.Object, err)
	}
	if again := e.newLoss(l.Object, b); again.SHA256 != l.SHA256 {
		return fmt.Errorf("%w: %s reads differently each time: the store or the way to it is damaged, not the object; nothing is given up", ErrDamaged, l.Object)
	}
	l.Epoch = n
	key := lossKey(n, l.Object)
	record, err := marshalControl(l)
	if err != nil {
		return err
	}
	err = e.insist(ctx, func() error {
		err := e.objects.Put(ctx, key, record)
		if errors.Is(err, ErrExists) { // put by an earlier try of this opening: that one counts
			l, err = e.readLoss(ctx, key)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	err = e.insist(ctx, func() error {
		switch _, err := e.objects.Get(ctx, epochKey(n+1)); {
		case errors.Is(err, ErrNotExist):
			return nil
		case err == nil:
			return fmt.Errorf("%w: epoch %d was begun while the loss of %s was accepted in epoch %d", ErrEpoch, n+1, l.Object, n)
		default:
			return err
		}
	})
	if err != nil {
		return err
	}
	all.put(l)
	e.opts.Hooks.lossAccepted(*l)
	return nil
}

// damagedSegment is one that a recovery could not read.
type damagedSegment struct {
	id  SegmentID
	b   []byte
	err error
}

// acceptSegments records the loss of damaged segments, if that was asked for, and gives
// the runs that are left of them. shards is what the others hold, anew what the
// emptied shards adopted.
func (e *Engine) acceptSegments(ctx context.Context, n uint64, damaged []damagedSegment, all *losses, shards *[Shards][]RestoreRun, anew *[Shards]*adopted) ([]RestoreRun, error) {
	slices.SortFunc(damaged, func(a, b damagedSegment) int { return strings.Compare(a.id.Key(), b.id.Key()) })
	var refused []error
	for _, d := range damaged {
		if key := d.id.Key(); !e.accepts(key) {
			refused = append(refused, fmt.Errorf("%w; %s", d.err, lossHint(key)))
		}
	}
	if len(refused) > 0 {
		const most = 10
		if left := len(refused) - most; left > 0 {
			refused = append(refused[:most], fmt.Errorf("%w: and %d more", ErrDamaged, left))
		}
		return nil, errors.Join(refused...)
	}
	var found []*Loss
	var kept []RestoreRun
	for _, d := range damaged {
		l, runs, err := e.salvage(d.id, d.b, all.get(d.id.Key()))
		if err != nil {
			return nil, err
		}
		found, kept = append(found, l), append(kept, runs...)
	}
	for _, l := range found {
		for i := range l.Lost {
			l.Lost[i].In = standsIn(&l.Lost[i], kept, shards, anew)
		}
		if err := e.accept(ctx, n, l, all); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// standsIn tells where a run stands that a segment has lost.
func standsIn(r *LostRun, kept []RestoreRun, shards *[Shards][]RestoreRun, anew *[Shards]*adopted) string {
	s := Shard(r.Catalog)
	if a := anew[s]; a != nil && slices.ContainsFunc(a.snapshots, func(o RestoreSnapshot) bool { return o.Catalog == r.Catalog && !o.Snapshot.Stop.Less(r.Last) }) {
		return "snapshot"
	}
	same := func(o RestoreRun) bool {
		return o.Catalog == r.Catalog && o.Run.First == r.First && o.Run.Last == r.Last
	}
	if slices.ContainsFunc(shards[s], same) || slices.ContainsFunc(kept, same) {
		return "segment"
	}
	return ""
}

// acceptPack records the loss of a pack whose deltas cannot be read, if that was asked for.
func (e *Engine) acceptPack(ctx context.Context, n uint64, catalog string, s Snapshot, damage error, all *losses) error {
	key := PackKey(catalog, s.Start, s.Stop)
	switch {
	case all.get(key) != nil:
		return nil
	case !e.accepts(key):
		return fmt.Errorf("%w; %s", damage, lossHint(key))
	case foreign(damage):
		return fmt.Errorf("%w; a newer version of Lake may read it: it is not given up", damage)
	}
	b, err := e.getObject(ctx, key)
	if err != nil {
		return fmt.Errorf("get %s: %w", key, err)
	}
	l := e.newLoss(key, b)
	l.Lost = append(l.Lost, LostRun{Catalog: catalog, First: s.Start.Add(1), Last: s.Stop, In: "snapshot"})
	return e.accept(ctx, n, l, all)
}

// checkLosses makes sure that what is to be given up is damaged, before anything is
// done for it.
func (e *Engine) checkLosses(ctx context.Context) error {
	for _, key := range e.opts.AcceptLoss {
		if key == AcceptAll {
			continue
		}
		refuse := func(format string, args ...any) error {
			return Invalid("invalid_loss", "accept_loss", format, args...)
		}
		id, err := ParseSegmentKey(key)
		catalog, snap, isPack := parsePackKey(key)
		if err != nil && !isPack {
			return refuse("%.200q is not the key of a segment or a pack; only their damage keeps an epoch shut", key)
		}
		b, err := e.getObject(ctx, key)
		if errors.Is(err, ErrNotExist) {
			return refuse("there is no %s in the bucket", key)
		}
		if err != nil {
			return unavailable(fmt.Errorf("get %s: %w", key, err))
		}
		if isPack {
			_, err = decodePackObject(key, catalog, snap, b)
		} else {
			_, err = segmentRuns(id, b, nil)
		}
		if err == nil {
			return refuse("%s is not damaged", key)
		}
	}
	return nil
}

// parsePackKey tells whose pack stands under a key.
func parsePackKey(key string) (catalog string, s Snapshot, ok bool) {
	if catalog, ok = catalogOfKey(key); !ok || !strings.HasSuffix(key, ".pack") {
		return "", Snapshot{}, false
	}
	s, ok = parseHistoryKey(catalog, key)
	return catalog, s, ok
}

// mayHold tells whether what an accepted loss gave up may hold deltas of a catalog.
func (l *Loss) mayHold(catalog string) bool {
	return l.Unknown > 0 || l.Cut || slices.ContainsFunc(l.Lost, func(r LostRun) bool { return r.Catalog == catalog })
}
