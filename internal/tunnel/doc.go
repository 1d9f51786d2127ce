// Package tunnel is a listener on the far side of an SSH server: it asks the
// server for a remote forward, as `ssh -R` does, and hands out the connections
// that arrive there. One's own sshd will do, and so will the public tunnel
// services that speak SSH. Those print the public URL into the session, which
// is read too.
//
// The listener outlives the SSH connection: a connection that is lost or dead
// is made again, with the same forward.
package tunnel
