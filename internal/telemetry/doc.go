// Package telemetry is how a lake is watched from outside: the logger of a
// process, and its Prometheus metrics.
//
// Nothing here is global. A process makes one Metrics on the registry of its
// choice and hands parts of it out: EngineHooks to the engine, Objects around the
// bucket, Endpoint to each endpoint of a service. Two lakes in one process have
// a Metrics each, on registries of their own.
//
// Metrics are named lake_<subsystem>_<what>_<unit>, in base units, and start at
// zero, so that a rate over the first failure is not lost. A catalog is never a
// label: there may be millions. Histograms are native and classic at once.
package telemetry
