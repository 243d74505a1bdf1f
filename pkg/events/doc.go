// Package events is what a lake says over NATS, and how to hear it.
//
//	index outbox ──Relay──▶ LAKE_EVENTS ──▶ lake.v1.live.…   plain subscriptions
//	                │            └────────▶ Watch            history, then live
//	                └─────▶ LAKE_JOBS ────▶ Jobs             one job a catalog that is due
//
// An event is metadata of a change that the index has committed; it never holds
// a body. Events are delivered at least once. In the stream the committed
// events of a catalog tile its history: each covers the versions
// (prev, version], in version order. Who listens applies three rules; Watch has
// applied them already and filled the gaps from the log. With last the greatest
// version seen of the catalog:
//
//	version <= last          doubled: drop it
//	prev < last < version    overlapping: it covers (last, version], the rest was seen
//	prev > last              a gap: events were lost with the stream's store; read
//	                         (last, prev] from the log, then take the event
//
// Doubles and overlaps come from relays that repeat each other's work after a
// crash or a lost lease. A gap cannot come from a relay: an entry leaves the
// outbox only after the stream has acknowledged it.
//
// The streams are made by Apply and by nobody else; services Check them.
package events
