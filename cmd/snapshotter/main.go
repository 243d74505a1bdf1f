// Command snapshotter runs one service of a distributed lake; see docs/operations.md.
package main

import (
	"os"

	"github.com/jsonlake/lake/internal/app"
)

func main() {
	os.Exit(app.Main("snapshotter", "Folds the deltas of a lake into snapshots, off the read path.", app.Snapshotter))
}
