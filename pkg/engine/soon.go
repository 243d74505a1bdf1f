package engine

import "time"

// soonBytes is the largest document that ReadSoon answers with: whoever is
// answered copies it while others wait.
const soonBytes = 64 << 10

// ReadSoon answers the read that is asked for most, of a whole document that is
// in the document cache and has not changed, without a goroutine that waits: answer is
// called once, from any goroutine, and must return at once. When its done
// is false the read has to be made with Read; the same, and answer is not
// called, when ReadSoon is false. The body is the cache's own: answer must not
// change it, and not keep it.
//
// It promises what Read promises: the head is looked at after ReadSoon was
// called, and the lease is valid after the index answered; unless the read is
// relaxed, and the document was found to be the newest within RelaxedAge.
func (e *Engine) ReadSoon(req ReadRequest, answer func(res ReadResult, done bool)) bool {
	teller, ok := e.index.(HeadTeller)
	if !ok || req.At != nil || req.Pointer != "" && req.Pointer != "/" || checkRead(&req) != nil {
		return false
	}
	doc := e.docs.get(req.Catalog)
	if doc == nil || doc.body == nil || len(doc.body) > soonBytes || doc.version.Less(req.MinVersion) || e.readable(req.Relaxed) != nil {
		return false
	}
	told := func(pending bool) {
		e.opts.Hooks.cacheLookup("document", true)
		res := ReadResult{Version: doc.version, Pending: pending, NotModified: doc.version == req.IfNoneMatch}
		if !res.NotModified {
			res.Body = doc.body
		}
		answer(res, true)
	}
	if req.Relaxed {
		if m := doc.recent(); m != nil && !(m.pending && e.opts.StrictPending) {
			told(m.pending)
			return true
		}
	}
	n, begin := e.lease.epoch(), time.Now()
	return teller.TellHead(n, req.Catalog, doc.version, func(unchanged, pending bool) {
		if !unchanged || pending && e.opts.StrictPending || !req.Relaxed && !e.lease.valid(n) {
			answer(ReadResult{}, false)
			return
		}
		doc.confirm(begin, pending)
		told(pending)
	})
}

// soonWrite is the largest body that WriteSoon takes: it is looked through while
// others wait.
const soonWrite = 4 << 10

// WriteSoon is Write of a small delta without a goroutine that waits for it: answer
// is called once, from any goroutine, with what Write would have returned, and must
// return at once. It is called by the deadline, or when the engine is closed. When
// WriteSoon is false, answer is not called, and the write has to be made with Write:
// the same where it would be refused at once, so that Write is the only one to say why.
func (e *Engine) WriteSoon(deadline time.Time, req WriteRequest, answer func(res WriteResult, err error)) bool {
	if len(req.Body) > soonWrite || req.IfAbsent || e.Ready() != nil {
		return false
	}
	r, err := e.newRun(BatchRequest{Catalog: req.Catalog, Deltas: []WriteRequest{req}, Author: req.Author, WriteOptions: req.WriteOptions})
	if err != nil {
		return false
	}
	r.tell, r.deadline = answer, deadline
	return e.group.add(r) == nil
}
