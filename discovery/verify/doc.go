// Package verify checks a public issuer as a relying party does: anonymously and
// over the network. Run gives a verdict per check with evidence, cause and cure,
// Published proves that a publication is visible, and WaitForKey waits until a
// new key may be used for signing.
//
// Reports show what was compared, never a remote body and never a token.
package verify
