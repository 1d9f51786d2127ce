// Package verify looks at a public issuer as a relying party does: anonymously,
// over the network, trusting nothing. It gives a verdict per check with
// evidence, cause and cure (Run), proves that a publication is visible
// (Published) and waits until a new key may be signed with (WaitForKey).
//
// It shows what it compared, never a remote body and never a token.
package verify
