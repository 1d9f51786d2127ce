// Package publish is the pipeline from a cluster's documents to the places
// where relying parties read them: source, check, plan, backend.
//
// NewPlan is pure and holds the rules of publication; Publisher.Publish is one
// pass that carries a plan out on every target.
package publish
