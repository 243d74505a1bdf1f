// Command reader runs one service of a distributed lake; see docs/operations.md.
package main

import (
	"os"

	"github.com/jsonlake/lake/internal/app"
)

func main() {
	os.Exit(app.Main("reader", "Answers reads of a lake over NATS.", app.Reader))
}
