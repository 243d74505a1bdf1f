package service

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
		`"after":` + versionSchema + `,"limit":{"type":"integer","minimum":1,"maximum":1000},"order":{"enum":["asc","desc"]}}}`

	schemaLog = `{"type":"object","required":["items"],"additionalProperties":false,"properties":{"next":` + versionSchema + `,"items":{"type":"array","items":` +
		`{"type":"object","required":["version","prev","path","merge","outcome","id","time"],"properties":{` +
		`"version":` + versionSchema + `,"prev":` + versionSchema + `,"path":{"type":"string"},"merge":` + mergeSchema + `,"body":true,` +
		`"outcome":{"type":"object","required":["status"],"properties":{"status":{"enum":["applied","noop","pruned"]},"reason":{"type":"string"},"op":{"type":"integer"},"coerced":{"type":"boolean"}}},` +
		`"author":{"type":"string"},"id":{"type":"string"},"time":{"type":"integer"},"no_auto_parents":{"type":"boolean"}}}}}}`

	atSchema = `{"type":"string","description":"a version, a time of RFC 3339, or whole seconds since 1970"}`

	mergeSchema = `{"enum":["replace","merge-patch","json-patch","delete","purge"]}`

	schemaDiffRequest = `{"type":"object","additionalProperties":false,"properties":{` +
		`"from":` + atSchema + `,"to":` + atSchema + `,"format":{"enum":["merge-patch","json-patch"]}}}`

	schemaDiff = `{"type":"object","required":["from","to","merge"],"additionalProperties":false,"properties":{` +
		`"from":` + versionSchema + `,"to":` + versionSchema + `,"merge":{"enum":["merge-patch","json-patch","delete"]},"patch":true}}`

	schemaBlameRequest = `{"type":"object","additionalProperties":false,"properties":{"pointer":{"type":"string"},"members":{"type":"boolean"},` +
		`"after":{"type":"string"},"limit":{"type":"integer","minimum":0,"maximum":1000},"at":` + atSchema + `}}`

	schemaBlame = `{"type":"object","required":["version","items"],"additionalProperties":false,"properties":{"version":` + versionSchema + `,"next":{"type":"string"},` +
		`"items":{"type":"array","items":{"type":"object","required":["pointer","present","version","prev"],"properties":{"pointer":{"type":"string"},"present":{"type":"boolean"},` +
		`"gone":{"type":"boolean"},"version":` + versionSchema + `,"prev":` + versionSchema + `,"time":{"type":"integer"},"author":{"type":"string"},"merge":` + mergeSchema +
		`,"path":{"type":"string"},"id":{"type":"string"}}}}}}`

	schemaCatalogsRequest = `{"type":"object","additionalProperties":false,"properties":{` +
		`"prefix":{"type":"string"},"after":{"type":"string"},"limit":{"type":"integer","minimum":1,"maximum":1000}}}`

	schemaCatalogs = `{"type":"object","required":["items"],"additionalProperties":false,"properties":{"next":{"type":"string"},"items":{"type":"array","items":` +
		`{"type":"object","required":["catalog","version","bytes","deltas","updated"],"properties":{` +
		`"catalog":{"type":"string"},"version":` + versionSchema + `,"bytes":{"type":"integer"},"deltas":{"type":"integer"},"updated":{"type":"integer"}}}}}}`

	schemaSnapshot = `{"type":"object","required":["version","deltas","bytes","more"],"additionalProperties":false,"properties":{` +
		`"version":` + versionSchema + `,"deltas":{"type":"integer"},"bytes":{"type":"integer"},"more":{"type":"boolean"}}}`

	schemaPurge = `{"type":"object","required":["catalog","version","complete","snapshots","packs","segments","rewritten","bytes","cached","waiting","verified"],"additionalProperties":false,"properties":{` +
		`"catalog":{"type":"string"},"version":` + versionSchema + `,"complete":{"type":"boolean"},"snapshots":{"type":"integer"},"packs":{"type":"integer"},"segments":{"type":"integer"},` +
		`"rewritten":{"type":"integer"},"bytes":{"type":"integer"},"cached":{"type":"integer"},"waiting":{"type":"integer"},"until":{"type":"string","format":"date-time"},` +
		`"verified":{"type":"object","required":["read","past","log","objects","segments"],"additionalProperties":false,"properties":{"read":{"enum":["not_found","written"]},"past":{"type":"string"},` +
		`"log":{"type":"integer"},"objects":{"type":"integer"},"segments":{"type":"integer"}}}}}`

	schemaProblem = `{"type":"object","required":["type","title","status","detail","code"],"properties":{` +
		`"type":{"type":"string"},"title":{"type":"string"},"status":{"type":"integer"},"detail":{"type":"string"},"code":{"type":"string"},` +
		`"field":{"type":"string"},"offset":{"type":"integer"},"pointer":{"type":"string"},"catalog":{"type":"string"},"id":{"type":"string"}}}`
)

// metadata is what the service tells of an endpoint.
func (e *endpoint) metadata() map[string]string {
	m := map[string]string{
		"content_type": "application/json", "response_schema": e.response, "error_schema": schemaProblem,
		"headers": e.supported(),
	}
	if e.request != "" {
		m["request_schema"] = e.request
	}
	return m
}
