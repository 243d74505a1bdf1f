package service

import (
	"strings"

	"github.com/jsonlake/lake/pkg/events"
)

// JSON Schemas (2020-12) of requests and answers, told by `nats service info`.
const (
	schemaAny = `true`

	versionSchema = `{"type":"string","pattern":"^(0|[1-9][0-9]{0,9})_(0|[1-9][0-9]{0,5})$"}`

	schemaWrite = `{"type":"object","required":["version","first","count","duplicate"],"additionalProperties":false,"properties":{` +
		`"version":` + versionSchema + `,"first":` + versionSchema + `,"count":{"type":"integer","minimum":1},"duplicate":{"type":"boolean"}}}`

	schemaOutcomeRequest = `{"type":"object","required":["id"],"additionalProperties":false,"properties":{"id":{"type":"string","minLength":1,"maxLength":128}}}`

	schemaOutcome = `{"type":"object","required":["state","version","first","count","duplicate"],"additionalProperties":false,"properties":{"state":{"enum":["committed","pending"]},` +
		`"version":` + versionSchema + `,"first":` + versionSchema + `,"count":{"type":"integer","minimum":0},"duplicate":{"type":"boolean"}}}`

	schemaLogRequest = `{"type":"object","additionalProperties":false,"properties":{` +
		`"after":` + versionSchema + `,"limit":{"type":"integer","minimum":1,"maximum":1000},"order":{"const":"asc"}}}`

	schemaLog = `{"type":"object","required":["items"],"additionalProperties":false,"properties":{"next":` + versionSchema + `,"items":{"type":"array","items":` +
		`{"type":"object","required":["version","prev","path","merge","outcome","id","time"],"properties":{` +
		`"version":` + versionSchema + `,"prev":` + versionSchema + `,"path":{"type":"string"},"merge":{"enum":["replace","merge-patch","json-patch","delete"]},"body":true,` +
		`"outcome":{"type":"object","required":["status"],"properties":{"status":{"enum":["applied","noop","pruned"]},"reason":{"type":"string"},"op":{"type":"integer"},"coerced":{"type":"boolean"}}},` +
		`"author":{"type":"string"},"id":{"type":"string"},"time":{"type":"integer"},"no_auto_parents":{"type":"boolean"}}}}}}`

	schemaCatalogsRequest = `{"type":"object","additionalProperties":false,"properties":{` +
		`"prefix":{"type":"string"},"after":{"type":"string"},"limit":{"type":"integer","minimum":1,"maximum":1000}}}`

	schemaCatalogs = `{"type":"object","required":["items"],"additionalProperties":false,"properties":{"next":{"type":"string"},"items":{"type":"array","items":` +
		`{"type":"object","required":["catalog","version","bytes","deltas","updated"],"properties":{` +
		`"catalog":{"type":"string"},"version":` + versionSchema + `,"bytes":{"type":"integer"},"deltas":{"type":"integer"},"updated":{"type":"integer"}}}}}}`

	schemaSnapshot = `{"type":"object","required":["version","deltas","bytes","more"],"additionalProperties":false,"properties":{` +
		`"version":` + versionSchema + `,"deltas":{"type":"integer"},"bytes":{"type":"integer"},"more":{"type":"boolean"}}}`

	schemaProblem = `{"type":"object","required":["type","title","status","detail","code"],"properties":{` +
		`"type":{"type":"string"},"title":{"type":"string"},"status":{"type":"integer"},"detail":{"type":"string"},"code":{"type":"string"},` +
		`"field":{"type":"string"},"offset":{"type":"integer"},"pointer":{"type":"string"},"catalog":{"type":"string"},"id":{"type":"string"}}}`
)

// metadata is what the service tells of an endpoint.
func (e *endpoint) metadata() map[string]string {
	m := map[string]string{
		"content_type": "application/json", "response_schema": e.response, "error_schema": schemaProblem,
		"headers": strings.Join(append([]string{events.HeaderTimeout}, e.headers...), ", "),
	}
	if e.request != "" {
		m["request_schema"] = e.request
	}
	return m
}
