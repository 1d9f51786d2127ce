// Package serve serves the two documents of an issuer from memory.
//
// A Site is a publish.Backend and the http.Handler of the documents in it. It
// serves only the two documents, at their paths below the issuer's path,
// because a tunnel or a proxy in front forwards whole paths. The Host of a
// request is ignored: the documents are public, and a proxy may change it.
//
// Server is the HTTP server around it: HTTP/1.1, and HTTP/2 over TLS. HTTP/2
// without TLS is left out, as no relying party speaks it.
package serve
