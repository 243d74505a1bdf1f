// Command ingest runs one service of a distributed lake; see docs/operations.md.
package main

import (
	"os"

	"github.com/jsonlake/lake/internal/app"
)

func main() {
	os.Exit(app.Main("ingest", "Commits the writes of a lake: NATS in, Redis index and bucket out, events relayed to JetStream.", app.Ingest))
}
