package events

import "github.com/jsonlake/lake/pkg/engine"

// lastSeen is the last version seen of catalogs, for each kind of event. It
// remembers those that were heard of lately, between 65,536 and 131,072 of them, so
// that its memory is bounded. The zero value has seen nothing.
type lastSeen struct {
	recent, older map[seenKey]engine.Version
}

type seenKey struct {
	catalog string
	kind    engine.EventKind
}

const seenGeneration = 1 << 16

func (s *lastSeen) get(catalog string, kind engine.EventKind) (engine.Version, bool) {
	key := seenKey{catalog, kind}
	if v, ok := s.recent[key]; ok {
		return v, true
	}
	v, ok := s.older[key]
	return v, ok
}

func (s *lastSeen) put(catalog string, kind engine.EventKind, v engine.Version) {
	if s.recent == nil || len(s.recent) >= seenGeneration {
		s.older, s.recent = s.recent, make(map[seenKey]engine.Version)
	}
	s.recent[seenKey{catalog, kind}] = v
}
