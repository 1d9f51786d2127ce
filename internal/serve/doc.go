// Package serve serves the two documents from memory.
//
// A Site is a store (publish.Backend) and the http.Handler of what is in it.
// Only the two documents exist for a reader, at their own paths below the
// issuer's path: whatever stands before it, a tunnel or a proxy, passes whole
// paths on. Everything that a request needs is made when a document is put, so
// that a request costs a few comparisons and no allocation here.
//
// The Host of a request is not looked at: the documents are public, and a
// tunnel or a proxy may rename it.
//
// Server is the HTTP server around it: HTTP/1.1, and HTTP/2 over TLS. HTTP/2
// without TLS is left out, as no relying party speaks it.
package serve
