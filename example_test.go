package lake_test

import (
	"context"
	"fmt"
	"os"

	"github.com/jsonlake/lake"
)

// The quick start: a lake in a directory, a write, a read.
func ExampleOpen() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "lake")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	l, err := lake.Open(ctx, "file://"+dir)
	if err != nil {
		panic(err)
	}
	defer l.Close()

	_, err = l.Write(ctx, lake.WriteRequest{
		Catalog: "users", Path: "/profile",
		Body: []byte(`{"name":"Alice","age":30}`), MergeType: lake.MergeTypeReplace,
	})
	if err != nil {
		panic(err)
	}
	list := l.List(ctx, "users")
	doc, err := lake.ReadMap(ctx, list)
	if err != nil {
		panic(err)
	}
	fmt.Println(doc["profile"], list.HasPending)
	// Output: map[age:30 name:Alice] false
}

// A patch that creates its parents, as Lake does unless it is told not to.
func ExampleLake_Write_jsonPatch() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "lake")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	l, err := lake.Open(ctx, "file://"+dir)
	if err != nil {
		panic(err)
	}
	defer l.Close()

	_, err = l.Write(ctx, lake.WriteRequest{Catalog: "users", Path: "/", MergeType: lake.MergeTypeJSONPatch, Body: []byte(`[
		{"op":"add","path":"/a/b/c","value":42},
		{"op":"move","from":"/a/b/c","path":"/x/y/z"}
	]`)})
	if err != nil {
		panic(err)
	}
	b, err := lake.ReadBytes(ctx, l.List(ctx, "users"))
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", b)
	// Output: {"a":{"b":{}},"x":{"y":{"z":42}}}
}
